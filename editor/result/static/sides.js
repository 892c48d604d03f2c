// What is shown where: pure, tested under node.

/** The rectangle {x, y, width, height} in which a picture of this size stands in the middle of a view, as large as fits. */
export function fitted(pictureWidth, pictureHeight, viewWidth, viewHeight) {
  const scale = Math.min(viewWidth / pictureWidth, viewHeight / pictureHeight);
  const [width, height] = [pictureWidth * scale, pictureHeight * scale];
  return { x: (viewWidth - width) / 2, y: (viewHeight - height) / 2, width, height };
}

/** The picture's number within one side's file for a frame of the clip; null where that side has none. */
export function numberOn(side, frame) {
  const number = frame - side.first;
  return number >= 0 && number < side.count ? number : null;
}

/** How large pictures are made to tell where they differ. */
export const SMALL = { width: 64, height: 36 };

/** Where the wipe line stands (0..1) so that all that differs between two pictures, RGBA of the size `SMALL`, lies on its right;
 *  the middle when nothing differs. */
export function wipeBeside(before, after) {
  const { width } = SMALL;
  const counts = new Array(width).fill(0);
  for (let index = 0; index < before.length; index += 4) {
    const apart = [0, 1, 2].reduce((sum, channel) => sum + Math.abs(before[index + channel] - after[index + channel]), 0);
    if (apart > 48) counts[(index / 4) % width] += 1;
  }
  const first = counts.findIndex((count) => count >= 2); // a single one is the encoder's doing
  return first < 0 ? 0.5 : Math.max(first / width - 0.03, 0.02);
}

/** The mode after the flip key: one side as a whole, then the other. */
export const flipped = (mode) => (mode === "after" ? "before" : "after");

/** A frame held within a half-open range. */
export const clampFrame = (frame, [first, stop]) => Math.min(Math.max(Math.round(frame), first), stop - 1);

/** What a key does, or null. */
export function actionOf(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  const step = event.shiftKey ? 10 : 1;
  switch (event.key) {
    case "ArrowLeft": return { step: -step };
    case "ArrowRight": return { step };
    case "Home": return { edge: "first" };
    case "End": return { edge: "last" };
    case " ": return { toggle: "play" };
    case "x": case "X": return { toggle: "flip" };
    case "w": case "W": return { mode: "wipe" };
    case "l": case "L": return { toggle: "loop" };
    default: return null;
  }
}

/** "12 Mar, 14:05" in the person's own time and language. */
export function clockText(seconds, locale = undefined) {
  return new Date(seconds * 1000).toLocaleString(locale, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}
