// What a click would find, shown faintly while the pointer rests on a thing that is not picked yet.

import { decodeCounts, drawMask, maskColor } from "./masks.js";

const REST_MS = 140;
/** Where an answer takes longer than this, nobody is asked for a while: the model is too slow for it. */
const SLOW_MS = 900;
const PAUSE_MS = 15_000;

/** Whether a mask in run lengths, `size` [height, width], holds the place [x, y] of 0..1. */
export function holds(runs, [height, width], [x, y]) {
  if (x < 0 || y < 0 || x >= 1 || y >= 1) return false;
  let rest = Math.floor(x * width) * height + Math.floor(y * height);
  return runs.findIndex((run) => (rest -= run) < 0) % 2 === 1;
}

export class Hover {
  /** send(path, message) posts JSON; changed() when there is something else to be painted. */
  constructor(masks, { send, changed, now = () => performance.now() }) {
    Object.assign(this, { masks, send, changed, now });
    this.ghost = null;
    this.aim = null;
    this.quietUntil = 0;
    this.isAsking = false;
  }

  /** The pointer is at `at` (0..1) of a frame, where a click would say "this"; null where no click would find anything new. */
  point(aim) {
    clearTimeout(this.timer);
    this.aim = aim && !this.isPicked(aim) ? aim : null;
    if (this.ghost && !(this.aim && isSame(this.ghost.aim, this.aim) && holds(this.ghost.runs, this.ghost.size, this.aim.at))) {
      this.ghost = null;
      this.changed();
    }
    if (this.aim && !this.ghost && this.now() >= this.quietUntil) this.timer = setTimeout(() => this.ask(), REST_MS);
  }

  /** Forget what was shown: a mark is made, or the pointer is gone. */
  drop() {
    this.point(null);
  }

  /** Whether the thing's mask holds this place already. */
  isPicked({ layer, mask: name, frame, at }) {
    const mask = this.masks.mask(layer, name, frame);
    if (!mask) return false;
    mask.runs ??= decodeCounts(mask.counts);
    return holds(mask.runs, mask.size, at);
  }

  async ask() {
    const { aim } = this;
    if (this.isAsking || !aim || !this.masks.token || this.masks.isTracking) return;
    this.isAsking = true;
    const began = this.now();
    let found = null;
    try {
      found = (await this.send("masks/hover", { token: this.masks.token, ...aim })).mask ?? null;
    } catch {
      this.quietUntil = this.now() + PAUSE_MS;
    }
    this.isAsking = false;
    if (this.now() - began > SLOW_MS) this.quietUntil = this.now() + PAUSE_MS;
    if (this.aim !== aim) return void this.point(this.aim);
    if (!found) return;
    this.ghost = { aim, size: found.size, runs: decodeCounts(found.counts), canvas: drawMask(found, maskColor(aim.mask), false) };
    this.changed();
  }

  /** The picture to paint over a frame, null where there is none. */
  find(layer, name, frame) {
    return this.ghost && isSame(this.ghost.aim, { layer, mask: name, frame }) ? this.ghost.canvas : null;
  }
}

const isSame = (one, other) => one.layer === other.layer && one.mask === other.mask && one.frame === other.frame;
