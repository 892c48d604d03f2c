// What stays in front of a cut-out: the hold-out masks of a layer at a frame, as one picture whose alpha hides the cut-out.

import { decodeCounts, fillMask } from "./masks.js";

const MAX_PICTURES = 12;

/** How soft a render finds the edge of a mask that nobody softened: about the band in which it looks for it (composite/holdout.py). */
export const edgePx = (height) => Math.max(2, Math.round(height / 360)) / 2;

/** Black RGBA bytes that are opaque inside a mask. */
export function opaqueInside(mask) {
  const pixels = new Uint8ClampedArray(4 * mask.length);
  for (let at = 0; at < mask.length; at += 1) if (mask[at]) pixels[4 * at + 3] = 255;
  return pixels;
}

export class Fronts {
  /** masks is the MaskStore; forget(canvas) is called for pictures that are drawn no more. */
  constructor(model, masks, forget) {
    Object.assign(this, { model, masks, forget });
    this.made = new Map();
  }

  /** The hold-outs of a layer that are known at a frame, together, over the whole picture: a canvas, null where nothing is in front. */
  find(layer, frame) {
    const { model } = this;
    const known = (model.layers[layer]?.masks?.holdouts ?? []).flatMap((holdout, name) => {
      const mask = this.masks.mask(layer, name, frame);
      return mask ? [{ mask, feather: holdout.feather_px ?? 0, name }] : [];
    });
    if (!known.length) return null;
    const key = [layer, frame, ...known.map(({ mask, feather, name }) => `${name}:${mask.version}:${feather}`)].join("/");
    const canvas = this.made.get(key) ?? draw(known, model.size);
    this.made.delete(key);
    this.made.set(key, canvas);
    for (const [oldest, picture] of this.made) {
      if (this.made.size <= MAX_PICTURES) break;
      this.made.delete(oldest);
      this.forget(picture);
    }
    return canvas;
  }
}

/** All masks over each other, each about as soft as in a render; `size` is that of the clip. */
function draw(known, { width, height: clipHeight }) {
  const [height, side] = known[0].mask.size;
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height });
  const context = canvas.getContext("2d");
  for (const { mask, feather } of known) {
    const one = Object.assign(document.createElement("canvas"), { width: side, height });
    one.getContext("2d").putImageData(new ImageData(opaqueInside(fillMask(decodeCounts(mask.counts), mask.size)), side, height), 0, 0);
    context.filter = `blur(${((feather || edgePx(clipHeight)) * side) / width}px)`;
    context.drawImage(one, 0, 0);
  }
  return canvas;
}
