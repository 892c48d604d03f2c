// Frames along the timeline. A scale is {left, right, first, last}: frame `first` is centred at `left`, `last` at `right` (CSS pixels).

export function makeScale(width, numFrames, padding = 14) {
  return { left: padding, right: Math.max(width - padding, padding + 1), first: 0, last: Math.max(numFrames - 1, 1) };
}

export const frameToX = (scale, frame) =>
  scale.left + ((frame - scale.first) * (scale.right - scale.left)) / (scale.last - scale.first);

export function xToFrame(scale, x) {
  const share = (x - scale.left) / (scale.right - scale.left);
  const frame = Math.round(scale.first + share * (scale.last - scale.first));
  return Math.min(Math.max(frame, scale.first), scale.last);
}

/** Distance between labelled ticks in frames: 1, 2 or 5 times a power of ten (or whole seconds), at least `room` CSS pixels apart. */
export function tickStep(scale, room = 56) {
  const perFrame = (scale.right - scale.left) / (scale.last - scale.first);
  for (let power = 1; power < 1e8; power *= 10) {
    for (const step of [power, 2 * power, 5 * power]) if (step * perFrame >= room) return step;
  }
  return 1e8;
}

/** Seconds and frames as people read them: 1:02.37 */
export function clock(frame, fps) {
  const seconds = frame / fps;
  const minutes = Math.floor(seconds / 60);
  const rest = (seconds - 60 * minutes).toFixed(2).padStart(5, "0");
  return `${minutes}:${rest}`;
}
