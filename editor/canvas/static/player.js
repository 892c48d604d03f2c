// Playing: frames follow the clock, but none is shown before it is there.

/** The frame that playing shows `elapsed` frames after `start`, within the half-open range; null when it has ended. */
export function playedFrame(start, elapsed, [first, stop], isLooping) {
  const frame = start + elapsed;
  if (frame < stop) return frame;
  return isLooping ? first + ((frame - first) % (stop - first)) : null;
}

export class Player {
  /** isReady(frame) says whether a frame could be shown now; want(frame) is called while one is waited for that could not, which may
   *  be at the other end of the range; onEnd() is called when playing stops by itself. */
  constructor(model, { isReady, want, onEnd }) {
    Object.assign(this, { model, isReady, want, onEnd });
    this.isPlaying = false;
  }

  play() {
    const { model } = this;
    if (!model.clip || this.isPlaying) return;
    const [first, stop] = model.range;
    if (model.frame < first || model.frame >= stop - 1) model.goTo(first);
    this.isPlaying = true;
    this.since = null;
    requestAnimationFrame((now) => this.tick(now));
  }

  pause() {
    this.isPlaying = false;
  }

  tick(now) {
    if (!this.isPlaying) return;
    const { model } = this;
    if (this.since === null) Object.assign(this, { since: now, start: model.frame });
    const elapsed = Math.floor(((now - this.since) / 1000) * model.clip.fps * model.options.speed);
    const frame = playedFrame(this.start, elapsed, model.range, model.options.isLooping);
    if (frame === null) {
      model.goTo(model.range[1] - 1);
      this.pause();
      this.onEnd();
      return;
    }
    if (frame !== model.frame) {
      if (this.isReady(frame)) model.goTo(frame);
      else this.wait(now);
    }
    requestAnimationFrame((next) => this.tick(next));
  }

  /** Stand still until the next frame is there: go on from the frame after the one that is shown. */
  wait(now) {
    const { model } = this;
    const next = playedFrame(model.frame, 1, model.range, model.options.isLooping);
    if (next !== null && this.isReady(next)) model.goTo(next);
    else if (next !== null) this.want(next);
    Object.assign(this, { since: now, start: model.frame });
  }
}
