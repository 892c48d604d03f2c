// Masks: how they are coded, what they look like, and the store of those that the server made. The first part is pure.

import { decodeBytes } from "./codec.js";

export const MADE = 1;
export const STALE = 2;
export const UNSURE = 4;
export const EDITED = 8;
export const EMPTY = 16;
export const PROMPTED = 32;

/** Most masks that one message asks for. */
const MAX_SLOTS = 34;
const MAX_BITMAPS = 12;
const MAX_FRAMES = 400;
const AHEAD = 8;
const POLL_MS = 200;
const REST_MS = 300;

/** Run lengths of a COCO `counts` string: column by column, background first. */
export function decodeCounts(text) {
  const runs = [];
  for (let at = 0; at < text.length;) {
    let value = 0;
    let shift = 0;
    for (let more = true; more; at += 1) {
      const digit = text.charCodeAt(at) - 48;
      value |= (digit & 31) << shift;
      shift += 5;
      more = (digit & 32) !== 0;
      if (!more && digit & 16 && shift < 32) value |= -1 << shift;
    }
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/** A mask u8[height * width], row by row, of run lengths. */
export function fillMask(runs, [height, width]) {
  const mask = new Uint8Array(height * width);
  let place = 0;
  for (let index = 0; index < runs.length; index += 1) {
    const stop = Math.min(place + runs[index], mask.length);
    for (let at = place, x = Math.floor(place / height), y = place % height; index % 2 === 1 && at < stop; x += 1, y = 0) {
      for (; y < height && at < stop; y += 1, at += 1) mask[y * width + x] = 1;
    }
    place = stop;
  }
  return mask;
}

/** A mask as RGBA bytes: a tint inside a firm edge; a stale one is hatched and grey. */
export function tintMask(mask, [height, width], [red, green, blue], isStale) {
  const pixels = new Uint8ClampedArray(4 * mask.length);
  for (let y = 0, at = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, at += 1) {
      if (!mask[at]) continue;
      const isEdge = (x > 0 && !mask[at - 1]) || (x + 1 < width && !mask[at + 1]) || (y > 0 && !mask[at - width]) || (y + 1 < height && !mask[at + width]);
      const to = 4 * at;
      pixels[to] = isStale ? 148 : red;
      pixels[to + 1] = isStale ? 163 : green;
      pixels[to + 2] = isStale ? 184 : blue;
      pixels[to + 3] = isEdge ? 255 : !isStale ? 112 : (x + y) % 12 < 4 ? 150 : 40;
    }
  }
  return pixels;
}

/** The half-open stretches of frames whose flags pass a test. */
export function stretches(flags, test) {
  const found = [];
  for (let frame = 0; frame < flags.length; frame += 1) {
    if (!test(flags[frame])) continue;
    const last = found[found.length - 1];
    if (last && last[1] === frame) last[1] = frame + 1;
    else found.push([frame, frame + 1]);
  }
  return found;
}

/** "mask:target" and "mask:0" are the lanes of a layer's masks; the name of the mask is "target" or a number, null for other lanes. */
export function maskOfLane(lane) {
  if (typeof lane !== "string" || !lane.startsWith("mask:")) return null;
  const name = lane.slice(5);
  return name === "target" ? name : Number(name);
}

export const laneOfMask = (name) => `mask:${name}`;

export const maskTitle = (name) => (name === "target" ? "Target" : `In front ${name + 1}`);

const HOLDOUT_COLORS = [[56, 189, 248], [129, 140, 248], [45, 212, 191], [250, 204, 21]];

/** The colour of a mask, red green blue. */
export const maskColor = (name) => (name === "target" ? [244, 63, 94] : HOLDOUT_COLORS[name % HOLDOUT_COLORS.length]);

export const cssColor = (rgb) => `rgb(${rgb.join(", ")})`;

/** Which frames to ask for now: the current one when it may have changed, then what is missing ahead of it and behind. */
export function wantedFrames(frame, slot, numFrames, isFresh) {
  const wanted = [];
  const lacks = (each) => slot.versions[each] && slot.frames.get(each)?.version !== slot.versions[each];
  const isDue = !slot.flags || (slot.flags[frame] & PROMPTED && (slot.flags[frame] & (MADE | STALE)) !== MADE);
  if (!isFresh || isDue || lacks(frame)) wanted.push(frame);
  if (!slot.versions.length) return wanted;
  for (let step = 1; step <= AHEAD; step += 1) {
    for (const each of step <= 2 ? [frame + step, frame - step] : [frame + step]) {
      if (each >= 0 && each < numFrames && lacks(each)) wanted.push(each);
    }
  }
  return wanted;
}

/** The masks of the chosen layer, and those in front of what the animatic draws, asked for as they are needed. */
export class MaskStore {
  /** say(sentence), changed() after something new arrived; send(path, message) posts JSON. */
  constructor(model, { say, changed, send }) {
    Object.assign(this, { model, say, changed, send });
    this.reset(null);
  }

  reset(token) {
    clearTimeout(this.timer);
    clearTimeout(this.rest);
    this.token = token;
    this.slots = new Map();
    this.bitmaps = new Map();
    this.segmenter = undefined;
    this.job = null;
    this.isBusy = false;
    this.isWanted = false;
    this.isFresh = false;
    this.told = null;
    this.epoch = (this.epoch ?? 0) + 1;
  }

  /** The document has changed: what is known may be out of date. */
  sceneChanged() {
    this.isFresh = false;
    for (const [key, { layer, name }] of this.slots) if (!this.model.maskOf(layer, name)) this.slots.delete(key);
    this.want();
  }

  slot(layer, name) {
    const key = `${layer}/${name}`;
    if (!this.slots.has(key)) this.slots.set(key, { key, layer, name, digest: null, versions: [], flags: null, frames: new Map() });
    return this.slots.get(key);
  }

  flags(layer, name) {
    return this.slots.get(`${layer}/${name}`)?.flags ?? null;
  }

  /** Whether a mask is being tracked now. */
  get isTracking() {
    return this.job !== null && this.job.state !== "ended";
  }

  /** Ask for what is missing, if anything is; `rests` prepares the frame for a click once the hand rests. */
  want() {
    const { model } = this;
    if (!this.token || !model.clip || !model.layer) return;
    clearTimeout(this.rest);
    if (model.showsMasks) this.rest = setTimeout(() => this.poll({ prepare: model.frame }), REST_MS);
    if (this.isTracking || this.places().length) this.poll();
  }

  /** The masks [layer, name] that are asked for: those of the chosen layer, and those that hide parts of other layers' cut-outs. */
  places() {
    const { model } = this;
    const found = model.masksOf(model.layerIndex).map((name) => [model.layerIndex, name]);
    model.layers.forEach((_, layer) => {
      if (layer !== model.layerIndex) found.push(...model.masksOf(layer).filter((name) => model.needsMask(layer, name)).map((name) => [layer, name]));
    });
    return found.filter(([layer, name]) => model.maskOf(layer, name)).slice(0, MAX_SLOTS);
  }

  wishes() {
    const { model } = this;
    return this.places().map(([layer, name]) => {
      const slot = this.slot(layer, name);
      const frames = model.needsMask(layer, name) ? wantedFrames(model.frame, slot, model.clip.num_frames, this.isFresh) : [];
      return { layer, mask: name, have: this.isFresh ? slot.digest : null, frames };
    });
  }

  async poll(more = {}) {
    if (!this.token || !this.model.clip) return;
    if (this.isBusy) {
      this.isWanted = true;
      this.more = { ...this.more, ...more };
      return;
    }
    const slots = this.wishes();
    const asked = { ...this.more, ...more };
    this.more = {};
    const isNeeded = asked.act || asked.prepare !== undefined || this.isTracking || !this.isFresh || slots.some((each) => each.frames.length);
    if (!isNeeded) return;
    const epoch = this.epoch;
    clearTimeout(this.timer);
    this.isBusy = true;
    this.isFresh = true;
    try {
      const answer = await this.send("masks", { token: this.token, slots, ...asked });
      if (epoch === this.epoch) this.take(answer, slots);
    } catch {
      if (epoch === this.epoch) {
        this.isFresh = false;
        this.timer = setTimeout(() => this.poll(), 3000);
      }
    } finally {
      if (epoch === this.epoch) this.next();
    }
  }

  /** What comes after an answer: another wish, or the next look at a running track. */
  next() {
    this.isBusy = false;
    if (this.isWanted) {
      this.isWanted = false;
      this.poll();
    } else if (this.isTracking) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.poll(), POLL_MS);
    }
  }

  take(answer, wishes) {
    this.segmenter = answer.segmenter ?? this.segmenter;
    wishes.forEach((wish, index) => {
      const told = answer.slots?.[index];
      if (told) this.takeSlot(this.slot(wish.layer, wish.mask), told, wish);
      else if (told === null) this.slots.delete(`${wish.layer}/${wish.mask}`);
    });
    this.takeJob(answer.job ?? null);
    if (answer.fault && answer.fault !== this.told) this.say(answer.fault);
    this.told = answer.fault;
    if (wishes.some((wish) => this.lacksMore(wish))) this.isWanted = true;
    this.changed();
  }

  takeSlot(slot, told) {
    slot.digest = told.digest;
    if (told.states) {
      slot.versions = new Uint32Array(decodeBytes(told.states.versions).buffer);
      slot.flags = decodeBytes(told.states.flags);
    }
    for (const mask of told.masks) {
      slot.frames.delete(mask.frame);
      slot.frames.set(mask.frame, mask);
    }
    for (const frame of slot.frames.keys()) {
      if (slot.frames.size <= MAX_FRAMES) break;
      slot.frames.delete(frame);
    }
  }

  /** Whether the answer told of masks that were not asked for, and should be now. */
  lacksMore(wish) {
    const { model } = this;
    if (!model.needsMask(wish.layer, wish.mask)) return false;
    const slot = this.slots.get(`${wish.layer}/${wish.mask}`);
    if (!slot?.flags) return false;
    const frame = model.frame;
    return Boolean(slot.versions[frame]) && slot.frames.get(frame)?.version !== slot.versions[frame] && !wish.frames.includes(frame);
  }

  takeJob(job) {
    const before = this.job;
    this.job = job;
    const hasEnded = job?.state === "ended" && before && before.number === job.number && before.state !== "ended";
    if (hasEnded && job.note) this.say(job.note);
    if (hasEnded) this.isWanted = true;
  }

  /** Whether the mask that is worked on has marks at this frame that the server has not answered yet. */
  get isFinding() {
    const { model } = this;
    const isMarked = model.mask?.prompts[model.frame] && !model.mask.edits.includes(model.frame);
    return Boolean(isMarked && this.isBusy && ((this.flags(model.layerIndex, model.maskName)?.[model.frame] ?? 0) & (MADE | STALE)) !== MADE);
  }

  /** What is to be said of how the last track of a mask ended; empty where there is nothing. */
  outcome(layer, name) {
    const { job } = this;
    return job?.state === "ended" && job.place?.[0] === layer && job.place[1] === name ? job.note : "";
  }

  /** Track a mask from this frame: "forward", "backward" or "both". */
  track(name, direction) {
    const { model } = this;
    this.job = { number: -1, state: "waiting", made: 0, total: 0, place: [model.layerIndex, name], note: "" };
    this.poll({ act: { kind: "track", layer: model.layerIndex, mask: name, frame: model.frame, direction } });
    this.changed();
  }

  stop() {
    this.poll({ act: { kind: "stop" } });
  }

  /** What the server told of a mask at a frame {version, size, counts}; null where there is none, or it is not here yet. */
  mask(layer, name, frame) {
    const slot = this.slots.get(`${layer}/${name}`);
    return slot?.versions[frame] ? (slot.frames.get(frame) ?? null) : null;
  }

  /** The picture of a mask at a frame, null where there is none: {canvas, version}. */
  bitmap(layer, name, frame) {
    const slot = this.slots.get(`${layer}/${name}`);
    const mask = this.mask(layer, name, frame);
    if (!mask) return null;
    const isStale = (slot.flags[frame] & STALE) !== 0;
    const key = `${slot.key}/${frame}`;
    const known = this.bitmaps.get(key);
    this.bitmaps.delete(key);
    if (known && known.version === mask.version && known.isStale === isStale) {
      this.bitmaps.set(key, known);
      return known;
    }
    const made = { version: mask.version, isStale, canvas: drawMask(mask, maskColor(name), isStale) };
    this.bitmaps.set(key, made);
    for (const oldest of this.bitmaps.keys()) {
      if (this.bitmaps.size <= MAX_BITMAPS) break;
      this.bitmaps.delete(oldest);
    }
    return made;
  }

  close() {
    clearTimeout(this.timer);
    clearTimeout(this.rest);
    this.token = null;
  }
}

/** The picture of a mask as the server told it. */
export function drawMask({ counts, size }, color, isStale) {
  const [height, width] = size;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pixels = tintMask(fillMask(decodeCounts(counts), size), size, color, isStale);
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  return canvas;
}
