// The clip's frames as bitmaps: what is looked at comes first, what is likely next is read ahead, what is far away is let go.

export class FrameCache {
  /**
   * urlOf(frame) is the frame's address; maxBytes bounds the decoded bitmaps; onFrame(frame) is called whenever one has arrived,
   * onGone(frame) when one is given up after three tries.
   * fetchBitmap may be replaced in tests.
   */
  constructor({ numFrames, urlOf, onFrame, onGone = () => {}, maxBytes = 320 << 20, ahead = 32, parallel = 4, fetchBitmap = fetchImage }) {
    Object.assign(this, { numFrames, urlOf, onFrame, onGone, maxBytes, ahead, parallel, fetchBitmap });
    this.bitmaps = new Map();
    this.running = new Map();
    this.failed = new Map();
    this.wanted = 0;
    this.direction = 1;
    this.bytes = 0;
    this.isClosed = false;
  }

  /** The bitmap of a frame, or null while it is not there. */
  find(frame) {
    const found = this.bitmaps.get(frame);
    if (!found) return null;
    this.bitmaps.delete(frame);
    this.bitmaps.set(frame, found);
    return found;
  }

  /** The nearest frame that is there already, for something to show meanwhile. */
  nearest(frame) {
    let best = null;
    for (const other of this.bitmaps.keys()) {
      if (best === null || Math.abs(other - frame) < Math.abs(best - frame)) best = other;
    }
    return best === null ? null : this.bitmaps.get(best);
  }

  /** Look at a frame now; neighbours in the direction of travel follow. */
  look(frame) {
    if (frame !== this.wanted) this.direction = frame > this.wanted ? 1 : -1;
    this.wanted = frame;
    for (const [other, control] of this.running) {
      if (this.distance(other) > this.ahead) control.abort();
    }
    this.pump();
  }

  /** How far away a frame is in the order of loading. */
  distance(frame) {
    const step = (frame - this.wanted) * this.direction;
    return step >= 0 ? step : -3 * step;
  }

  /** The frames to load, the most urgent first. */
  queue() {
    const order = [];
    for (let step = 0; step <= this.ahead && order.length < this.parallel; step += 1) {
      const candidates = step % 3 === 0 && step > 0 ? [step, -step / 3] : [step];
      for (const offset of candidates) {
        const frame = this.wanted + offset * this.direction;
        if (frame < 0 || frame >= this.numFrames || this.bitmaps.has(frame) || this.running.has(frame)) continue;
        if ((this.failed.get(frame) ?? 0) < 3) order.push(frame);
      }
    }
    return order;
  }

  pump() {
    if (this.isClosed) return;
    for (const frame of this.queue()) {
      // One place is kept free for the frame that is looked at.
      if (this.running.size >= this.parallel - (frame === this.wanted ? 0 : 1)) return;
      this.load(frame);
    }
  }

  async load(frame) {
    const control = new AbortController();
    this.running.set(frame, control);
    try {
      const bitmap = await this.fetchBitmap(this.urlOf(frame), control.signal);
      if (this.isClosed) bitmap.close();
      else this.keep(frame, bitmap);
    } catch {
      if (!control.signal.aborted) this.miss(frame);
    } finally {
      this.running.delete(frame);
    }
    this.pump();
  }

  miss(frame) {
    const times = (this.failed.get(frame) ?? 0) + 1;
    this.failed.set(frame, times);
    if (times === 3) this.onGone(frame);
  }

  keep(frame, bitmap) {
    this.bitmaps.set(frame, bitmap);
    this.bytes += bitmap.width * bitmap.height * 4;
    this.failed.delete(frame);
    for (const [other, old] of this.bitmaps) {
      if (this.bytes <= this.maxBytes || this.bitmaps.size <= 2) break;
      if (other === this.wanted || other === frame) continue;
      this.bitmaps.delete(other);
      this.bytes -= old.width * old.height * 4;
      old.close();
    }
    this.onFrame(frame);
  }

  close() {
    this.isClosed = true;
    for (const control of this.running.values()) control.abort();
    for (const bitmap of this.bitmaps.values()) bitmap.close();
    this.bitmaps.clear();
    this.bytes = 0;
  }
}

export async function fetchImage(url, signal) {
  const answer = await fetch(url, { signal, credentials: "same-origin" });
  if (!answer.ok) throw new Error(`${answer.status}`);
  return createImageBitmap(await answer.blob());
}

/** Small pictures for the filmstrip: few, loaded one after the other, the last asked first. */
export class ThumbCache {
  constructor({ urlOf, onFrame, limit = 256, fetchBitmap = fetchImage }) {
    Object.assign(this, { urlOf, onFrame, limit, fetchBitmap });
    this.bitmaps = new Map();
    this.waiting = [];
    this.failed = new Set();
    this.isLoading = false;
    this.isClosed = false;
    this.control = new AbortController();
  }

  find(frame) {
    return this.bitmaps.get(frame) ?? null;
  }

  request(frame) {
    if (this.waiting.includes(frame) || this.failed.has(frame) || this.loading === frame) return;
    this.waiting.push(frame);
    if (this.waiting.length > 128) this.waiting.shift();
    this.run();
  }

  async run() {
    if (this.isLoading || this.isClosed || !this.waiting.length) return;
    this.isLoading = true;
    this.loading = this.waiting.shift();
    try {
      const bitmap = await this.fetchBitmap(this.urlOf(this.loading), this.control.signal);
      if (this.isClosed) bitmap.close();
      else this.keep(this.loading, bitmap);
    } catch {
      this.failed.add(this.loading);
    }
    this.loading = null;
    this.isLoading = false;
    this.run();
  }

  keep(frame, bitmap) {
    this.bitmaps.set(frame, bitmap);
    if (this.bitmaps.size > this.limit) {
      const [oldest, old] = this.bitmaps.entries().next().value;
      this.bitmaps.delete(oldest);
      old.close();
    }
    this.onFrame(frame);
  }

  close() {
    this.isClosed = true;
    this.control.abort();
    for (const bitmap of this.bitmaps.values()) bitmap.close();
    this.bitmaps.clear();
  }
}
