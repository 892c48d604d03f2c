// The timeline: a ruler with the range, the filmstrip, and a lane of keys for every layer and path. Painted on one canvas.

import { fitCanvas } from "./animatic.js";
import { EMPTY, laneOfMask, MADE, maskColor, maskOfLane, cssColor, STALE, stretches, UNSURE } from "./masks.js";
import { frameToX, makeScale, tickStep, xToFrame } from "./timescale.js";

export const RULER = 28;
export const STRIP = 44;
export const ROW = 34;

export class Timeline {
  /** actions: {edit, pause, scrub(frame)}; thumbs is a FrameCache of small pictures or null. */
  constructor(root, model, actions) {
    Object.assign(this, { root, model, actions });
    this.canvas = root.querySelector(".cv-tracks");
    this.thumbs = null;
    this.drag = null;
    this.listen();
  }

  /** The rows below the filmstrip: {layer, lane} from top to bottom; the top layer comes first. */
  rows() {
    const rows = [];
    for (let layer = this.model.layers.length - 1; layer >= 0; layer -= 1) {
      rows.push({ layer, lane: "boxes" });
      if (layer !== this.model.layerIndex) continue;
      this.model.layers[layer].trajectories.forEach((_, lane) => rows.push({ layer, lane }));
      for (const name of this.model.masksOf(layer)) rows.push({ layer, lane: laneOfMask(name) });
    }
    return rows;
  }

  get height() {
    return RULER + STRIP + ROW * Math.max(this.rows().length, 1);
  }

  resize() {
    const height = this.height;
    this.canvas.style.height = `${height}px`;
    this.bounds = { width: this.canvas.clientWidth, height };
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    if (this.model.clip) this.scale = makeScale(this.bounds.width, this.model.clip.num_frames);
  }

  // -- painting -------------------------------------------------------------------------------------------------------------------

  paint() {
    const { model } = this;
    if (!this.bounds?.width) return;
    fitCanvas(this.canvas, this.bounds.width, this.bounds.height, this.ratio);
    const context = this.canvas.getContext("2d");
    this.context = context;
    this.colors ??= readColors(this.root);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.bounds.width, this.bounds.height);
    if (!model.clip) return;
    this.paintStrip();
    this.rows().forEach((row, index) => this.paintRow(row, RULER + STRIP + index * ROW));
    this.paintRange();
    this.paintRuler();
    this.paintHead();
  }

  x(frame) {
    return frameToX(this.scale, frame);
  }

  paintRuler() {
    const { context, colors, model, scale } = this;
    context.fillStyle = colors.panel;
    context.fillRect(0, 0, this.bounds.width, RULER);
    const [first, stop] = this.rangeNow();
    context.fillStyle = colors.accent;
    context.globalAlpha = 0.22;
    context.fillRect(this.x(first), RULER - 12, this.x(stop - 1) - this.x(first), 12);
    context.globalAlpha = 1;
    const step = tickStep(scale);
    const small = step >= 10 ? step / 5 : step >= 5 ? 1 : step;
    context.font = "11px ui-sans-serif, system-ui, sans-serif";
    context.textBaseline = "alphabetic";
    for (let frame = 0; frame < model.clip.num_frames; frame += Math.max(Math.round(small), 1)) {
      const x = Math.round(this.x(frame)) + 0.5;
      const isLabelled = frame % step === 0;
      context.strokeStyle = colors.line;
      context.beginPath();
      context.moveTo(x, RULER - (isLabelled ? 10 : 5));
      context.lineTo(x, RULER);
      context.stroke();
      if (!isLabelled) continue;
      context.fillStyle = colors.faint;
      if (Math.abs(x - this.x(model.frame)) > 34) context.fillText(String(frame), Math.min(x + 3, this.bounds.width - 24), 12);
    }
    for (const [frame, side] of [[first, 1], [stop - 1, -1]]) this.paintBracket(this.x(frame), side);
    context.strokeStyle = colors.line;
    context.strokeRect(-1, RULER + 0.5, this.bounds.width + 2, STRIP - 1);
  }

  paintBracket(x, side) {
    const { context, colors } = this;
    context.fillStyle = colors.accent;
    context.beginPath();
    context.roundRect(side > 0 ? x - 6 : x, RULER - 14, 6, 14, side > 0 ? [3, 0, 0, 3] : [0, 3, 3, 0]);
    context.fill();
  }

  paintStrip() {
    const { context, colors, model, thumbs } = this;
    context.fillStyle = colors.well;
    context.fillRect(0, RULER, this.bounds.width, STRIP);
    if (!thumbs) return;
    const width = Math.max(28, STRIP * Math.min(Math.max(model.clip.width / model.clip.height, 0.5), 2.4));
    const [left, right] = [this.scale.left, this.scale.right];
    const count = Math.max(1, Math.ceil((right - left) / width));
    const each = (right - left) / count;
    context.save();
    context.beginPath();
    context.rect(left, RULER, right - left, STRIP);
    context.clip();
    for (let index = 0; index < count; index += 1) {
      const frame = xToFrame(this.scale, left + (index + 0.5) * each);
      const bitmap = thumbs.find(frame);
      if (bitmap) context.drawImage(bitmap, left + index * each, RULER + 1, width, STRIP - 2);
      else thumbs.request(frame);
    }
    context.restore();
  }

  rangeNow() {
    return this.drag?.kind === "range" ? this.drag.range : this.model.range;
  }

  /** What lies outside the range is veiled. */
  paintRange() {
    const { context, colors } = this;
    const [first, stop] = this.rangeNow();
    context.fillStyle = colors.veil;
    context.fillRect(0, RULER, Math.max(this.x(first) - 9, 0), this.bounds.height - RULER);
    context.fillRect(this.x(stop - 1) + 9, RULER, this.bounds.width, this.bounds.height - RULER);
  }

  paintHead() {
    const { context, colors, model } = this;
    const x = Math.round(this.x(model.frame)) + 0.5;
    context.strokeStyle = colors.head;
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(x, 14);
    context.lineTo(x, this.bounds.height);
    context.stroke();
    context.lineWidth = 1;
    context.fillStyle = colors.head;
    const text = String(model.frame);
    context.font = "600 11px ui-sans-serif, system-ui, sans-serif";
    const width = Math.max(context.measureText(text).width + 10, 22);
    const left = Math.min(Math.max(x - width / 2, 0), this.bounds.width - width);
    context.beginPath();
    context.roundRect(left, 0, width, 16, 4);
    context.fill();
    context.fillStyle = colors.headText;
    context.fillText(text, left + (width - context.measureText(text).width) / 2, 12);
  }

  paintRow({ layer, lane }, top) {
    const { context, colors, model } = this;
    const isChosen = layer === model.layerIndex && lane === model.lane;
    context.fillStyle = isChosen ? colors.chosen : lane === "boxes" ? colors.panel : colors.soft;
    context.fillRect(0, top, this.bounds.width, ROW);
    context.strokeStyle = colors.line;
    context.beginPath();
    context.moveTo(0, top + ROW - 0.5);
    context.lineTo(this.bounds.width, top + ROW - 0.5);
    context.stroke();
    const middle = top + ROW / 2;
    context.globalAlpha = model.layers[layer].hidden ? 0.4 : 1;
    if (maskOfLane(lane) !== null) this.paintMaskLane(layer, maskOfLane(lane), middle);
    else if (lane === "boxes") this.paintBoxLane(layer, middle);
    else this.paintPathLane(layer, lane, middle);
    context.globalAlpha = 1;
  }

  paintBoxLane(layer, middle) {
    const { model } = this;
    const found = model.layers[layer];
    const frames = this.framesNow(layer, "boxes");
    if (!frames.length) return;
    const color = model.layerColor(layer);
    const keys = found.boxes?.keys ?? {};
    const first = keys[frames[0]];
    const last = keys[frames[frames.length - 1]];
    this.paintLost(found.follow, middle);
    if (!first?.enter) this.bar(0, frames[0], middle, color, 0.25);
    if (!last?.leave) this.bar(frames[frames.length - 1], model.clip.num_frames - 1, middle, color, 0.25);
    for (let index = 0; index + 1 < frames.length; index += 1) {
      const [a, b] = [frames[index], frames[index + 1]];
      const isGone = keys[a]?.leave || keys[b]?.enter;
      if (!isGone) this.segment(a, b, middle, color, keys[a]?.ease ?? "linear");
    }
    for (const frame of frames) this.diamond(frame, middle, color, layer === model.layerIndex && model.lane === "boxes" && model.key === frame);
  }

  /** Where the surface that a layer follows is lost, and the cuts beyond which it is. */
  paintLost(follow, middle) {
    const { context, colors } = this;
    context.fillStyle = follow?.lost.length ? this.hatch(colors.faint) : "transparent";
    for (const [start, stop] of follow?.lost ?? []) {
      const [left, right] = [this.x(start - 0.5), this.x(stop - 0.5)];
      context.fillRect(left, middle - 8, Math.max(right - left, 1.5), 16);
    }
    context.fillStyle = colors.text;
    for (const [frame] of follow?.cuts ?? []) context.fillRect(this.x(frame - 0.5) - 1, middle - ROW / 2, 2, ROW - 1);
  }

  paintPathLane(layer, lane, middle) {
    const { model } = this;
    const trajectory = model.layers[layer].trajectories[lane];
    const color = model.pointColor(layer, trajectory.point);
    const spans = this.spansNow(layer, lane);
    const isChosen = layer === model.layerIndex && lane === model.lane;
    for (const [start, stop] of spans) {
      const last = Math.min(stop, model.clip.num_frames) - 1;
      this.bar(start, last, middle, color, 0.3);
      if (isChosen) for (const [frame, side] of [[start, 1], [last, -1]]) this.spanEnd(this.x(frame), side, middle, color);
    }
    for (const frame of this.framesNow(layer, lane)) {
      this.diamond(frame, middle, color, layer === model.layerIndex && model.lane === lane && model.key === frame, 4);
    }
  }

  /** Where a mask is made, older or doubtful; its clicks as diamonds. */
  paintMaskLane(layer, name, middle) {
    const { model, context, colors } = this;
    const color = cssColor(maskColor(name));
    const flags = this.flagsOf?.(layer, name);
    if (flags) {
      const paint = (fill, test, alpha, half) => {
        context.globalAlpha = alpha;
        context.fillStyle = fill;
        for (const [start, stop] of stretches(flags, test)) {
          const [left, right] = [this.x(start - 0.5), this.x(stop - 0.5)];
          context.fillRect(left, middle - half, Math.max(right - left, 1.5), 2 * half);
        }
        context.globalAlpha = 1;
      };
      const before = context.globalAlpha;
      paint(color, (each) => (each & (MADE | STALE | EMPTY)) === MADE, 0.55 * before, 5);
      paint(color, (each) => (each & (MADE | STALE | EMPTY)) === (MADE | EMPTY), 0.35 * before, 1);
      paint(this.hatch(colors.faint), (each) => (each & STALE) !== 0, 0.9 * before, 5);
      paint("#f59e0b", (each) => (each & (MADE | STALE | UNSURE)) === (MADE | UNSURE), before, 2);
      context.globalAlpha = before;
    }
    const lane = laneOfMask(name);
    for (const frame of model.framesOf(layer, lane)) {
      this.diamond(frame, middle, color, layer === model.layerIndex && model.lane === lane && model.key === frame, 5);
    }
  }

  /** A pattern of slanted lines: what is no longer up to date. */
  hatch(color) {
    if (this.hatched?.color === color) return this.hatched.pattern;
    const tile = Object.assign(document.createElement("canvas"), { width: 6, height: 6 });
    const context = tile.getContext("2d");
    context.strokeStyle = color;
    context.lineWidth = 1.5;
    context.beginPath();
    for (const shift of [-6, 0, 6]) {
      context.moveTo(shift, 6);
      context.lineTo(shift + 6, 0);
    }
    context.stroke();
    this.hatched = { color, pattern: this.context.createPattern(tile, "repeat") };
    return this.hatched.pattern;
  }

  /** When a trajectory is visible, half-open, as the hand has it now. */
  spansNow(layer, lane) {
    const { drag, model } = this;
    if (drag?.kind === "span" && drag.layer === layer && drag.lane === lane) return drag.spans;
    return model.layers[layer].trajectories[lane].visible ?? [[0, model.clip.num_frames]];
  }

  /** The end of a visible stretch, to be taken hold of. */
  spanEnd(x, side, middle, color) {
    const { context } = this;
    context.strokeStyle = color;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x + side * 1, middle - 11);
    context.lineTo(x - side * 3, middle - 11);
    context.lineTo(x - side * 3, middle + 11);
    context.lineTo(x + side * 1, middle + 11);
    context.stroke();
    context.lineWidth = 1;
  }

  bar(first, last, middle, color, alpha) {
    const { context } = this;
    const before = context.globalAlpha;
    context.globalAlpha = before * alpha;
    context.fillStyle = color;
    context.fillRect(this.x(first), middle - 2, Math.max(this.x(last) - this.x(first), 1), 4);
    context.globalAlpha = before;
  }

  segment(first, last, middle, color, ease) {
    const { context } = this;
    context.strokeStyle = color;
    context.lineWidth = 2;
    context.setLineDash(ease === "hold" ? [2, 3] : []);
    const [a, b] = [this.x(first), this.x(last)];
    context.beginPath();
    if (ease === "smooth") {
      context.moveTo(a, middle + 3);
      context.bezierCurveTo(a + (b - a) * 0.4, middle + 3, b - (b - a) * 0.4, middle - 3, b, middle - 3);
    } else {
      context.moveTo(a, middle);
      context.lineTo(b, middle);
    }
    context.stroke();
    context.setLineDash([]);
    context.lineWidth = 1;
  }

  diamond(frame, middle, color, isChosen, radius = 6) {
    const { context, colors } = this;
    const x = this.x(frame);
    const size = isChosen ? radius + 1.5 : radius;
    context.beginPath();
    context.moveTo(x, middle - size);
    context.lineTo(x + size, middle);
    context.lineTo(x, middle + size);
    context.lineTo(x - size, middle);
    context.closePath();
    context.fillStyle = isChosen ? colors.text : color;
    context.strokeStyle = isChosen ? color : colors.panel;
    context.lineWidth = isChosen ? 2 : 1.5;
    context.fill();
    context.stroke();
    context.lineWidth = 1;
  }

  /** Frames of a lane's keys, as the hand has them now. */
  framesNow(layer, lane) {
    const frames = this.model.framesOf(layer, lane);
    const { drag } = this;
    if (drag?.kind === "shift" && drag.layer === layer && drag.lane === lane) return frames.map((frame) => frame + drag.by);
    if (drag?.kind !== "key" || drag.layer !== layer || drag.lane !== lane || drag.to === drag.frame) return frames;
    const kept = drag.isCopy ? frames : frames.filter((frame) => frame !== drag.frame);
    return [...new Set([...kept, drag.to])].sort((a, b) => a - b);
  }

  // -- hands ----------------------------------------------------------------------------------------------------------------------

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", () => this.up());
    canvas.addEventListener("pointercancel", () => this.abandon());
    canvas.addEventListener("dblclick", (event) => this.doubleClick(event));
  }

  place(event) {
    const bounds = this.canvas.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  }

  rowAt(y) {
    const index = Math.floor((y - RULER - STRIP) / ROW);
    return y < RULER + STRIP ? null : (this.rows()[index] ?? null);
  }

  keyUnder(row, x, reach) {
    let best = null;
    for (const frame of this.model.framesOf(row.layer, row.lane)) {
      const distance = Math.abs(this.x(frame) - x);
      if (distance <= reach && (best === null || distance < Math.abs(this.x(best) - x))) best = frame;
    }
    return best;
  }

  down(event) {
    const { model } = this;
    if (!model.clip || event.button !== 0) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture?.(event.pointerId);
    this.actions.pause();
    const [x, y] = this.place(event);
    const reach = event.pointerType === "touch" ? 16 : 9;
    this.drag = this.rangeUnder(x, y, reach) ?? this.beginRow(this.rowAt(y), x, reach, event) ?? this.beginScrub(x);
  }

  rangeUnder(x, y, reach) {
    if (y > RULER || y < 8) return null;
    const [first, stop] = this.model.range;
    const near = [Math.abs(this.x(first) - 3 - x), Math.abs(this.x(stop - 1) + 3 - x)];
    const end = near[0] <= near[1] ? 0 : 1;
    return near[end] <= reach ? { kind: "range", end, range: [first, stop] } : null;
  }

  beginRow(row, x, reach, event) {
    if (!row) return null;
    const span = this.spanUnder(row, x, reach);
    if (span) return span;
    const frame = this.keyUnder(row, x, reach);
    if (frame === null) {
      this.model.select({ ...row, key: null });
      if (maskOfLane(row.lane) !== null) return null;
      if (!event.shiftKey || !this.model.framesOf(row.layer, row.lane).length) return null;
      return { kind: "shift", ...row, from: xToFrame(this.scale, x), by: 0 };
    }
    this.model.select({ ...row, key: frame });
    this.actions.scrub(frame);
    if (maskOfLane(row.lane) !== null) return { kind: "scrub" };  // clicks belong to the picture of their frame
    return { kind: "key", ...row, frame, to: frame, isCopy: event.altKey, began: x };
  }

  /** An end of the chosen path's visible stretches: it stands just outside its frame, so that a key there can be taken too. */
  spanUnder(row, x, reach) {
    const { model } = this;
    if (typeof row.lane !== "number" || row.layer !== model.layerIndex || row.lane !== model.lane) return null;
    const spans = this.spansNow(row.layer, row.lane).map(([start, stop]) => [start, Math.min(stop, model.clip.num_frames)]);
    let best = null;
    spans.forEach(([start, stop], index) => {
      for (const [end, place] of [[0, this.x(start) - 4], [1, this.x(stop - 1) + 4]]) {
        const outward = end === 0 ? place - x : x - place;
        const distance = Math.abs(outward);
        if (distance <= reach && outward > -3 && (!best || distance < best.distance)) best = { index, end, distance };
      }
    });
    return best && { kind: "span", ...row, spans, index: best.index, end: best.end };
  }

  beginScrub(x) {
    this.actions.scrub(xToFrame(this.scale, x));
    return { kind: "scrub" };
  }

  move(event) {
    const [x, y] = this.place(event);
    if (!this.drag) {
      if (!this.model.clip) return;
      const row = this.rowAt(y);
      this.canvas.style.cursor = this.rangeUnder(x, y, 9) || (row && this.spanUnder(row, x, 9)) ? "ew-resize" : "default";
      return;
    }
    const frame = xToFrame(this.scale, x);
    if (this.drag.kind === "scrub") this.actions.scrub(frame);
    if (this.drag.kind === "key" && (Math.abs(x - this.drag.began) > 3 || this.drag.to !== this.drag.frame)) {
      Object.assign(this.drag, { to: frame, isCopy: event.altKey });
      this.actions.scrub(frame);
      this.actions.repaint();
    }
    if (this.drag.kind === "shift") this.shift(frame);
    if (this.drag.kind === "span") this.stretch(frame);
    if (this.drag.kind === "range") {
      const { range, end } = this.drag;
      if (end === 0) range[0] = Math.min(frame, range[1] - 1);
      else range[1] = Math.max(frame, range[0]) + 1;
      this.actions.repaint();
    }
  }

  /** An end of a visible stretch follows the hand, as far as its other end and its neighbours. */
  stretch(frame) {
    const { spans, index, end } = this.drag;
    const span = spans[index];
    if (end === 0) span[0] = Math.min(Math.max(frame, spans[index - 1]?.[1] ?? 0), span[1] - 1);
    else span[1] = Math.max(Math.min(frame + 1, spans[index + 1]?.[0] ?? this.model.clip.num_frames), span[0] + 1);
    this.drag.isMoved = true;
    this.actions.repaint();
  }

  /** All keys of a lane go along, as far as the clip goes. */
  shift(frame) {
    const { drag, model } = this;
    const frames = model.framesOf(drag.layer, drag.lane);
    drag.by = Math.min(Math.max(frame - drag.from, -frames[0]), model.clip.num_frames - 1 - frames[frames.length - 1]);
    this.actions.repaint();
  }

  up() {
    const { drag, model } = this;
    this.drag = null;
    if (drag?.kind === "key" && drag.to !== drag.frame) {
      const gesture = { kind: drag.isCopy ? "copy_key" : "move_key", layer: drag.layer, lane: drag.lane, frame: drag.frame, to: drag.to };
      this.actions.edit([gesture], { key: drag.to });
    }
    if (drag?.kind === "shift" && drag.by) {
      this.actions.edit([{ kind: "shift_lane", layer: drag.layer, lane: drag.lane, by: drag.by }]);
    }
    if (drag?.kind === "span" && drag.isMoved) {
      this.actions.edit([{ kind: "set_visible", layer: drag.layer, trajectory: drag.lane, ranges: drag.spans }]);
    }
    if (drag?.kind === "range" && (drag.range[0] !== model.range[0] || drag.range[1] !== model.range[1])) {
      this.actions.edit([{ kind: "set_range", range: drag.range }]);
    }
    this.actions.repaint();
  }

  abandon() {
    const had = this.drag !== null;
    this.drag = null;
    if (had) this.actions.repaint();
    return had;
  }

  /** A double click in a lane makes a key there. */
  doubleClick(event) {
    const [x, y] = this.place(event);
    const row = this.rowAt(y);
    if (!row || this.keyUnder(row, x, 9) !== null) return;
    this.model.select({ ...row, key: null });
    this.actions.scrub(xToFrame(this.scale, x));
    this.actions.addKey();
  }

  themeChanged() {
    this.colors = null;
  }
}

function readColors(root) {
  const style = getComputedStyle(root);
  const read = (name) => style.getPropertyValue(`--cv-${name}`).trim();
  return {
    panel: read("panel"), soft: read("soft"), well: read("well"), line: read("line"), text: read("text"), faint: read("faint"),
    accent: read("accent"), chosen: read("chosen"), veil: read("veil"), head: read("head"), headText: read("head-text"),
  };
}
