// How good every frame of a take is, as a curve under the timeline: what is worse lies lower, and the worst frames are marked.
// The first part is pure and tested under node.

/** What is measured. `isHigh`: more is better. `full` is what the curve's height stands for, `least` the smallest dip that is one. */
export const MEASURES = [
  { key: "identity", label: "Identity", title: "How much the object looks like its reference (1 is alike)", isHigh: true, full: 1, least: 0.06, digits: 2 },
  { key: "box_adherence", label: "Box", title: "How well what was laid fills its box (1 is wholly)", isHigh: true, full: 1, least: 0.06, digits: 2 },
  { key: "flicker", label: "Flicker", title: "Change of the object since the frame before, in 8-bit levels", isHigh: false, full: 16, least: 4, digits: 1 },
  { key: "background_leak", label: "Leak", title: "Change of the background, in 8-bit levels", isHigh: false, full: 4, least: 0.25, digits: 2 },
];

/** The level from which dips are counted: that of the better frames, so that a bad half stands out from a good one. */
function usual(values, isHigh) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  return known[Math.round((known.length - 1) * (isHigh ? 0.85 : 0.15))];
}

/** Stretches of bad frames, {first, last, worst} as places in `values`, the worst stretch first. */
export function findDips(values, measure) {
  const level = usual(values, measure.isHigh);
  const depth = (value) => (value === null ? 0 : measure.isHigh ? level - value : value - level);
  const dips = [];
  let open = null;
  values.forEach((value, place) => {
    if (depth(value) < measure.least) {
      open = null;
    } else if (open === null) {
      open = { first: place, last: place, worst: place };
      dips.push(open);
    } else {
      open.last = place;
      if (depth(value) > depth(values[open.worst])) open.worst = place;
    }
  });
  return dips.sort((a, b) => depth(values[b.worst]) - depth(values[a.worst]));
}

/** The curve as an SVG path in a box `values.length` wide and 1 high; lower is worse; it breaks where nothing is known. */
export function curveOf(values, measure) {
  const full = Math.max(measure.full, ...values.map((value) => (measure.isHigh ? 0 : value ?? 0)));
  const height = (value) => Math.min(Math.max(measure.isHigh ? 1 - value / full : value / full, 0), 1);
  let path = "";
  values.forEach((value, place) => {
    if (value === null) return;
    const y = height(value).toFixed(3);
    if ((values[place - 1] ?? null) === null) path += `M${place} ${y}`;
    path += `L${place + 0.5} ${y}`;
    if ((values[place + 1] ?? null) === null) path += `L${place + 1} ${y}`;
  });
  return path;
}

/** The place in `values` that lies at a share (0..1) of the width; the worst of a dip when it is near. */
export function placeAt(share, count, dips, reach = 0.015) {
  const exact = Math.min(Math.max(share, 0), 1) * count;
  const near = dips.map((dip) => dip.worst).filter((place) => Math.abs(place + 0.5 - exact) <= Math.max(reach * count, 0.5));
  near.sort((a, b) => Math.abs(a + 0.5 - exact) - Math.abs(b + 0.5 - exact));
  return near[0] ?? Math.min(Math.floor(exact), count - 1);
}

/** The frames, half-open, to render anew for a dip: all of it and two more on either side, within the take's `range`. */
export function spanOf(dip, frames, range) {
  return [Math.max(frames[dip.first] - 2, range[0]), Math.min(frames[dip.last] + 3, range[1])];
}

/** "Frame 12: identity 0.62" */
export function sayValue(frame, value, measure) {
  return `Frame ${frame}: ${measure.label.toLowerCase()} ${value === null ? "not known" : value.toFixed(measure.digits)}`;
}

/** The measure to begin with: the first one that has a dip, else the first one. */
export const firstMeasure = (quality) => MEASURES.find((measure) => findDips(quality[measure.key], measure).length) ?? MEASURES[0];

// -- on the page ------------------------------------------------------------------------------------------------------------------

export const QUALITY_MARKUP = `
<div class="rv-quality" hidden role="group" aria-label="Quality of every frame">
  <div class="rv-bar">
    <div class="rv-modes" role="radiogroup" aria-label="What is measured">${MEASURES.map((each) => `
      <button type="button" role="radio" data-measure="${each.key}" title="${each.title}">${each.label}</button>`).join("")}
    </div>
    <output class="rv-said"></output>
    <button type="button" class="rv-text" data-dip="next" title="Go to the next bad frame">Next dip</button>
    <button type="button" class="rv-text" data-dip="range" title="Set the in and out points around this dip, to render it anew"></button>
  </div>
  <div class="rv-plot" role="slider" tabindex="0" aria-label="Quality, frame by frame. Arrow keys step, Enter goes to the next dip.">
    <svg preserveAspectRatio="none" aria-hidden="true"><path/></svg>
  </div>
</div>`;

/** The strip. `goTo(frame)` shows a frame, `wantRange(span)` asks for its range, `keyed(event)` is what the viewer does with keys. */
export class QualityStrip {
  constructor(element, { goTo, wantRange, keyed }) {
    Object.assign(this, { element, goTo, wantRange });
    this.plot = element.querySelector(".rv-plot");
    this.quality = null;
    this.frame = 0;
    element.addEventListener("click", (event) => {
      const { measure, dip } = event.target.closest("button")?.dataset ?? {};
      if (measure) this.choose(measure);
      if (dip === "next") this.goToNext();
      if (dip === "range") this.wantRange(spanOf(this.dipHere(), this.quality.frames, this.range));
    });
    this.plot.addEventListener("click", (event) => this.goTo(this.quality.frames[this.placeUnder(event, this.dips)]));
    this.plot.addEventListener("pointermove", (event) => this.say(this.placeUnder(event, this.dips)));
    this.plot.addEventListener("pointerleave", () => this.at(this.frame));
    this.plot.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return keyed(event);
      event.preventDefault();
      return this.goToNext();
    });
  }

  /** Show a take's quality, or nothing for one that has none; `range` are its frames. */
  show(quality, range) {
    const isOther = JSON.stringify(quality) !== JSON.stringify(this.quality);
    this.quality = quality?.frames?.length ? quality : null;
    this.range = range;
    this.element.hidden = this.quality === null;
    if (this.quality && isOther) this.choose(firstMeasure(this.quality).key);
  }

  choose(key) {
    this.measure = MEASURES.find((each) => each.key === key);
    this.values = this.quality[key];
    this.dips = findDips(this.values, this.measure);
    const svg = this.plot.querySelector("svg");
    svg.setAttribute("viewBox", `0 -0.06 ${this.values.length} 1.12`);
    svg.querySelector("path").setAttribute("d", curveOf(this.values, this.measure));
    for (const mark of this.plot.querySelectorAll("i")) mark.remove();
    for (const dip of this.dips) {
      const mark = document.createElement("i");
      const count = this.values.length;
      mark.style.left = `${(100 * dip.first) / count}%`;
      mark.style.width = `${(100 * (dip.last + 1 - dip.first)) / count}%`;
      mark.style.setProperty("--rv-worst", (dip.worst + 0.5 - dip.first) / (dip.last + 1 - dip.first));
      this.plot.append(mark);
    }
    for (const button of this.element.querySelectorAll("[data-measure]")) {
      const measure = MEASURES.find((each) => each.key === button.dataset.measure);
      button.setAttribute("aria-checked", measure === this.measure);
      button.dataset.dips = findDips(this.quality[measure.key], measure).length;
    }
    this.at(this.frame);
  }

  /** The frame that is looked at. */
  at(frame) {
    this.frame = frame;
    if (!this.quality) return;
    const place = this.quality.frames.indexOf(frame);
    this.plot.style.setProperty("--rv-at", (place + 0.5) / this.values.length);
    Object.entries({ min: this.range[0], max: this.range[1] - 1, now: frame }).forEach(([name, value]) =>
      this.plot.setAttribute(`aria-value${name}`, value));
    if (place >= 0) this.plot.setAttribute("aria-valuetext", this.say(place));
    const dip = this.dipHere();
    const [next, range] = ["next", "range"].map((name) => this.element.querySelector(`[data-dip="${name}"]`));
    next.hidden = !this.dips.length;
    range.hidden = !dip;
    if (dip) {
      const [first, stop] = spanOf(dip, this.quality.frames, this.range);
      range.textContent = `Set in and out to ${first} to ${stop - 1}`;
    }
  }

  say(place) {
    const text = sayValue(this.quality.frames[place], this.values[place], this.measure);
    this.element.querySelector(".rv-said").textContent = text;
    return text;
  }

  dipHere() {
    const place = this.quality.frames.indexOf(this.frame);
    return this.dips.find((dip) => dip.first <= place && place <= dip.last);
  }

  goToNext() {
    if (!this.dips.length) return;
    const order = this.dips.map((dip) => dip.worst).sort((a, b) => a - b);
    const here = this.quality.frames.indexOf(this.frame);
    this.goTo(this.quality.frames[order.find((place) => place > here) ?? order[0]]);
  }

  placeUnder(event, dips) {
    const box = this.plot.getBoundingClientRect();
    return placeAt((event.clientX - box.left) / box.width, this.values.length, dips);
  }
}
