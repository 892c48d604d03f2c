// Before and after, on the same frame of the clip; below it the takes. Pictures come by frame number, as in the canvas: no video is
// ever sought. A frame is painted when both sides have it, so that they never differ by one.

import { QUALITY_MARKUP, QualityStrip } from "./quality.js";
import { actionOf, clampFrame, clockText, fitted, flipped, numberOn, SMALL, wipeBeside } from "./sides.js";

/** Bring the viewer to life. `announce(name, detail)` tells the page what the person wants; `base` is the page's address. */
export async function mount({ element, base, styles, canvas, pictures, props, watch, announce }) {
  const [{ FrameCache }, { Player }, { icon }] = await Promise.all(
    ["frames.js", "player.js", "icons.js"].map((name) => import(canvas + name)), addStyle(styles));
  const viewer = new Viewer({ element, pictures, announce, FrameCache, Player, icon });
  const show = () => viewer.show(props.value);
  watch("value", show);
  show();
  element.viewer = viewer;
  return viewer;
}

function addStyle(href) {
  if ([...document.styleSheets].some((sheet) => sheet.href === href)) return;
  document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
}

/** A picture's few pixels, RGBA, that tell where two pictures differ. */
function shrunk(bitmap) {
  const context = Object.assign(document.createElement("canvas"), SMALL).getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, SMALL.width, SMALL.height);
  return context.getImageData(0, 0, SMALL.width, SMALL.height).data;
}

const drawn = (path) => `<svg viewBox="0 0 20 20" aria-hidden="true" focusable="false"><path d="${path}"/></svg>`;
const STAR = drawn("M10 2.800l2.200 4.600 5 .7-3.600 3.500.9 5-4.500-2.400-4.500 2.400.9-5L2.800 8.100l5-.7z");
const PENCIL = drawn("M4 16l.8-3.200L13.500 4l2.500 2.500-8.800 8.700zM11.500 6l2.500 2.500");
const BACK = drawn("M13 4.500v11l-8-5.500zM16 4.500v11");
const ON = drawn("M7 4.500v11l8-5.500zM4 4.500v11");

const MARKUP = (icon) => `
<div class="rv-bar">
  <div class="rv-modes" role="radiogroup" aria-label="What is shown">
    <button type="button" role="radio" data-mode="before" title="Before alone (X flips)">Before</button>
    <button type="button" role="radio" data-mode="wipe" title="Both, with a line to drag (W)">Wipe</button>
    <button type="button" role="radio" data-mode="after" title="After alone (X flips)">After</button>
  </div>
  <label class="rv-against"><span>Compare with</span><select></select></label>
</div>
<div class="rv-stage" tabindex="0" aria-label="Before and after. Arrow keys step, X flips, Space plays.">
  <canvas></canvas>
  <div class="rv-wipe" role="slider" tabindex="0" aria-label="Wipe line" aria-valuemin="0" aria-valuemax="100"><i></i></div>
  <span class="rv-name rv-left"></span><span class="rv-name rv-right"></span>
  <p class="rv-note" role="status"></p>
</div>
<div class="rv-bar rv-transport">
  <button type="button" data-do="back" title="One frame back (←)" aria-label="One frame back">${BACK}</button>
  <button type="button" data-do="play" title="Play (Space)" aria-label="Play"></button>
  <button type="button" data-do="on" title="One frame on (→)" aria-label="One frame on">${ON}</button>
  <button type="button" data-do="loop" title="Loop (L)" aria-label="Loop" aria-pressed="true">${icon("loop")}</button>
  <input type="range" class="rv-scrub" step="1" aria-label="Frame">
  <output class="rv-counter"><span>Frame </span><b></b></output>
</div>
${QUALITY_MARKUP}
<div class="rv-takes" role="list" aria-label="Takes"></div>
<div class="rv-bar rv-actions">
  <button type="button" class="rv-text" data-do="splice"></button>
  <button type="button" class="rv-text" data-do="pack">Export pack (.zip)</button>
  <p class="rv-hint"></p>
</div>`;


class Viewer {
  constructor({ element, pictures, announce, FrameCache, Player, icon }) {
    Object.assign(this, { element, pictures, announce, FrameCache, icon });
    element.innerHTML = MARKUP(icon);
    const find = (selector) => element.querySelector(selector);
    this.stage = find(".rv-stage");
    this.canvas = find("canvas");
    this.wipeLine = find(".rv-wipe");
    this.scrub = find(".rv-scrub");
    this.value = null;
    this.sides = [];
    this.mode = "wipe";
    this.wipe = 0.5;
    this.isWipeToPlace = false;
    this.model = {
      clip: null, range: [0, 1], frame: 0, options: { speed: 1, isLooping: true },
      goTo: (frame) => this.goTo(frame), onChange: () => {},
    };
    this.player = new Player(this.model, {
      isReady: (frame) => this.isReady(frame), want: (frame) => this.want(frame), onEnd: () => this.paintControls(),
    });
    this.strip = new QualityStrip(find(".rv-quality"), {
      goTo: (frame) => { this.player.pause(); this.goTo(frame); },
      wantRange: (span) => this.tell("range", this.value.shown, { value: span }),
      keyed: (event) => this.keyed(event),
    });
    this.listen(find);
  }

  listen(find) {
    const { element, stage } = this;
    element.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button || button.disabled) return;
      if (button.dataset.mode) this.setMode(button.dataset.mode);
      else if (button.dataset.do) this.act(button.dataset.do);
      else if (button.dataset.take) this.actOnTake(button);
    });
    find(".rv-against select").addEventListener("change", (event) => this.tell("compare", event.target.value || null));
    this.scrub.addEventListener("input", () => { this.player.pause(); this.goTo(Number(this.scrub.value)); });
    stage.addEventListener("keydown", (event) => this.keyed(event));
    stage.addEventListener("pointerdown", (event) => this.dragWipe(event));
    new ResizeObserver(() => {
      if (!stage.clientWidth) this.player.pause();
      this.paint();
    }).observe(stage);
  }

  // -- what the page gives ------------------------------------------------------------------------------------------------------

  /** Show what the page says: {token, takes, shown, before, after, range, fps, width, height, splice} or null. */
  show(value) {
    if (value?.token && value.token === document.documentElement.dataset.left) return;
    this.value = value && value.takes?.length ? value : null;
    this.element.dataset.viewer = this.value ? "ready" : "empty";
    if (!this.value) {
      this.player.pause();
      this.closeSides([]);
      return;
    }
    const { before, after, range, fps } = this.value;
    const isOther = this.model.clip === null || this.value.clip !== this.clipDigest;
    this.clipDigest = this.value.clip;
    this.model.clip = { fps };
    this.model.range = range;
    this.openSides([before, after]);
    this.strip.show(this.value.quality, range);
    this.paintTakes();
    if (isOther) this.isWipeToPlace = true;
    this.goTo(isOther ? Math.floor((range[0] + range[1]) / 2) : this.model.frame);
    this.paintControls();
  }

  /** Play, the wipe line out of the way of everything that will move. */
  replay() {
    this.isWipeToPlace = false;
    this.wipe = 0.04;
    this.player.play();
    this.paint();
    this.paintControls();
  }

  openSides(wanted) {
    const kept = wanted.map((side) => this.sides.find((each) => each.key === side.key && !each.frames.isClosed));
    this.closeSides(kept);
    this.sides = wanted.map((side, index) => {
      const frames = kept[index]?.frames ?? new this.FrameCache({
        numFrames: side.count,
        urlOf: (number) => `${this.pictures}${side.key}/${number}.jpg`,
        onFrame: () => this.paint(),
        onGone: () => this.lost(),
        maxBytes: (navigator.deviceMemory ?? 8) < 4 ? 64 << 20 : 192 << 20,
        ahead: 24,
        parallel: 3,
      });
      return { ...side, frames };
    });
    this.painted = null;
    this.note("");
  }

  /** What is shown may be gone in a moment: ask for no more pictures until the page says what to show. What it says of a visitor who
   *  has `left` (the page's data-left) comes too late. */
  letGo() {
    this.player.pause();
    for (const side of this.sides) side.frames.close();
  }

  closeSides(kept) {
    for (const side of this.sides) if (!kept.includes(side)) side.frames.close();
    this.sides = [];
  }

  // -- going about ----------------------------------------------------------------------------------------------------------------

  goTo(frame) {
    if (!this.value) return;
    this.model.frame = clampFrame(frame, this.model.range);
    this.want(this.model.frame);
    this.paint();
    this.paintControls();
  }

  /** Fetch both sides of a frame. */
  want(frame) {
    for (const side of this.sides) {
      const number = numberOn(side, frame);
      if (number !== null) side.frames.look(number);
    }
  }

  /** Both sides could be shown at this frame now. */
  isReady(frame) {
    return this.sides.every((side) => {
      const number = numberOn(side, frame);
      return number === null || side.frames.find(number) !== null;
    });
  }

  setMode(mode) {
    this.mode = mode;
    this.paint();
    this.paintControls();
  }

  keyed(event) {
    const action = actionOf(event);
    if (!this.value || !action) return;
    if (event.target === this.wipeLine && action.step) {
      this.setWipe(this.wipe + action.step / 100);
    } else if (action.step) {
      this.player.pause();
      this.goTo(this.model.frame + action.step);
    } else if (action.edge) {
      this.player.pause();
      this.goTo(action.edge === "first" ? this.model.range[0] : this.model.range[1] - 1);
    } else if (action.mode) this.setMode(action.mode);
    else if (action.toggle === "flip") this.setMode(flipped(this.mode));
    else this.act(action.toggle);
    event.preventDefault();
    event.stopPropagation();
  }

  act(name) {
    if (!this.value) return;
    const { model, player } = this;
    if (name === "play") player.isPlaying ? player.pause() : player.play();
    else if (name === "back" || name === "on") {
      player.pause();
      this.goTo(model.frame + (name === "on" ? 1 : -1));
    } else if (name === "loop") model.options.isLooping = !model.options.isLooping;
    else this.announce(name, {});
    this.paintControls();
  }

  dragWipe(event) {
    if (!this.value || !this.place || this.mode !== "wipe" || event.button !== 0) return; // nothing is painted yet
    const move = (each) => {
      const box = this.stage.getBoundingClientRect();
      this.setWipe((each.clientX - box.left - this.place.x) / this.place.width);
    };
    const end = () => {
      this.stage.removeEventListener("pointermove", move);
      for (const name of ["pointerup", "pointercancel"]) this.stage.removeEventListener(name, end);
    };
    this.stage.setPointerCapture(event.pointerId);
    this.stage.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) this.stage.addEventListener(name, end);
    move(event);
  }

  setWipe(share) {
    this.wipe = Math.min(Math.max(share, 0), 1);
    this.paint();
  }

  // -- takes ----------------------------------------------------------------------------------------------------------------------

  tell(action, take, more = {}) {
    this.announce("acted", { action, take, ...more });
  }

  actOnTake(button) {
    const { take, what } = button.dataset;
    const known = this.value.takes.find((each) => each.key === take);
    if (what === "rename") this.rename(button.closest(".rv-take"), known);
    else if (what === "star") this.tell("star", take, { value: !known.starred });
    else if (what === "delete" && !button.classList.contains("rv-sure")) this.askAgain(button);
    else {
      if (what === "delete" && [this.value.shown, this.value.against].includes(take)) this.letGo();
      this.tell(what, take);
    }
  }

  /** A take that is deleted does not come back: the button asks before it does it. */
  askAgain(button) {
    const before = button.innerHTML;
    button.classList.add("rv-sure");
    button.textContent = "Delete?";
    setTimeout(() => {
      button.classList.remove("rv-sure");
      button.innerHTML = before;
    }, 4000);
  }

  rename(card, take) {
    const field = Object.assign(document.createElement("input"), { value: take.name, maxLength: 60, className: "rv-rename" });
    field.setAttribute("aria-label", "Name of the take");
    let isDone = false;
    const finish = (isKept) => {
      if (isDone) return;
      isDone = true;
      const name = field.value.trim();
      if (isKept && name && name !== take.name) this.tell("rename", take.key, { name });
      this.paintTakes();
    };
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") finish(false);
    });
    field.addEventListener("blur", () => finish(true));
    card.querySelector(".rv-title").replaceChildren(field);
    field.focus();
    field.select();
  }

  paintTakes() {
    const { takes, shown, against, splice, splice_note: note } = this.value;
    const list = this.element.querySelector(".rv-takes");
    list.replaceChildren(...[...takes].reverse().map((take) => this.card(take, take.key === shown)));
    const select = this.element.querySelector(".rv-against select");
    const others = takes.filter((take) => take.key !== shown && take.comparable);
    select.replaceChildren(new Option("the source", ""), ...others.map((take) => new Option(take.name, take.key)));
    select.value = against ?? "";
    const button = this.element.querySelector('[data-do="splice"]');
    button.disabled = !splice;
    button.textContent = splice ? `Re-render frames ${splice[0]} to ${splice[1] - 1} into this take` : "Re-render a range";
    this.element.querySelector(".rv-hint").textContent = note ?? "";
    const name = (key) => takes.find((take) => take.key === key)?.name;
    this.element.querySelector(".rv-left").textContent = against ? name(against) : "Source";
    this.element.querySelector(".rv-right").textContent = name(shown);
  }

  card(take, isShown) {
    const card = document.createElement("div");
    card.className = "rv-take";
    card.setAttribute("role", "listitem");
    card.dataset.key = take.key;
    card.dataset.shown = isShown;
    const button = (what, label, inner) =>
      `<button type="button" data-take="${take.key}" data-what="${what}" title="${label}" aria-label="${label}">${inner}</button>`;
    card.innerHTML = `
      ${button("show", "Look at this take", '<img alt="">')}
      <div class="rv-facts"><strong class="rv-title"></strong><span></span><span></span></div>
      <div class="rv-tools">
        ${button("star", take.starred ? "Take the star away" : "Star: kept when older takes make room", STAR)}
        ${button("rename", "Rename", PENCIL)}
        ${button("delete", "Delete", this.icon("trash"))}
        ${button("reuse", "The project becomes this take's again; undo brings yours back", "Reuse<span> settings</span>")}
      </div>`;
    card.querySelector("img").src = `data:image/jpeg;base64,${take.thumbnail}`;
    const [title, when, how] = card.querySelector(".rv-facts").children;
    title.textContent = take.name;
    when.textContent = `Frames ${take.range[0]} to ${take.range[1] - 1} · ${clockText(take.made_s)}`;
    how.textContent = take.settings;
    for (const line of [title, when, how]) line.title = line.textContent;
    card.querySelector('[data-what="star"]').setAttribute("aria-pressed", take.starred);
    card.querySelector('[data-what="show"]').setAttribute("aria-pressed", isShown);
    return card;
  }

  // -- painting -------------------------------------------------------------------------------------------------------------------

  lost() {
    this.note("This picture is no longer on the server; reload the page.");
  }

  note(text) {
    this.element.querySelector(".rv-note").textContent = text;
  }

  paintControls() {
    const { model, player } = this;
    for (const button of this.element.querySelectorAll("[data-mode]")) {
      button.setAttribute("aria-checked", button.dataset.mode === this.mode);
    }
    const play = this.element.querySelector('[data-do="play"]');
    play.innerHTML = this.icon(player.isPlaying ? "pause" : "play");
    play.setAttribute("aria-label", player.isPlaying ? "Pause" : "Play");
    this.element.querySelector('[data-do="loop"]').setAttribute("aria-pressed", model.options.isLooping);
    Object.assign(this.scrub, { min: model.range[0], max: model.range[1] - 1, value: model.frame });
    this.strip.at(model.frame);
    const last = model.range[1] - 1;
    this.element.querySelector(".rv-counter b").textContent = `${String(model.frame).padStart(String(last).length, "\u2007")} of ${last}`;
  }

  /** Paint the frame that is looked at, once both sides have it; until then the last one stays. */
  paint() {
    if (!this.value) return;
    const frame = this.isReady(this.model.frame) ? this.model.frame : this.painted;
    if (frame === null || frame === undefined || !this.isReady(frame)) return;
    const { stage, canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    stage.style.setProperty("--rv-aspect", this.value.width / this.value.height);
    const [width, height] = [stage.clientWidth, stage.clientHeight];
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    this.place = fitted(this.value.width, this.value.height, width, height);
    if (this.isWipeToPlace) this.placeWipe(frame);
    const edge = { before: 1, after: 0, wipe: this.wipe }[this.mode];
    this.paintSide(context, this.sides[0], frame, 0, edge);
    this.paintSide(context, this.sides[1], frame, edge, 1);
    this.painted = frame;
    Object.assign(stage.dataset, { paintedFrame: frame, mode: this.mode });
    this.wipeLine.style.left = `${this.place.x + this.wipe * this.place.width}px`;
    this.wipeLine.setAttribute("aria-valuenow", Math.round(this.wipe * 100));
  }

  /** Put the wipe line beside what has changed on this frame, so that it is seen as it is now. */
  placeWipe(frame) {
    this.isWipeToPlace = false;
    const bitmaps = this.sides.map((side) => {
      const number = numberOn(side, frame);
      return number === null ? null : side.frames.find(number);
    });
    if (bitmaps.every(Boolean)) this.wipe = wipeBeside(...bitmaps.map((bitmap) => shrunk(bitmap)));
  }

  paintSide(context, side, frame, from, to) {
    const { x, y, width, height } = this.place;
    if (to <= from) return;
    context.save();
    context.beginPath();
    context.rect(x + from * width, y, (to - from) * width, height);
    context.clip();
    const number = numberOn(side, frame);
    const bitmap = number === null ? null : side.frames.find(number);
    if (bitmap) {
      // A result of odd size has its edge repeated; that edge is not shown.
      const [wide, high] = [bitmap.width * this.value.width / side.width, bitmap.height * this.value.height / side.height];
      context.drawImage(bitmap, 0, 0, wide, high, x, y, width, height);
    } else {
      context.fillStyle = getComputedStyle(this.stage).getPropertyValue("--rv-faint");
      context.font = "14px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText("This take does not have this frame.", x + ((from + to) / 2) * width, y + height / 2);
    }
    context.restore();
  }
}
