// What stays in front of a cut-out: the hold-out masks of a layer at a frame, as one picture whose alpha hides the cut-out.

import { decodeCounts, fillMask } from "./masks.js";

const MAX_PICTURES = 12;

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
    const canvas = this.made.get(key) ?? draw(known, model.size.width);
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

/** All masks over each other, each as soft as a render takes it; `width` is that of the clip. */
function draw(known, width) {
  const [height, side] = known[0].mask.size;
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height });
  const context = canvas.getContext("2d");
  for (const { mask, feather } of known) {
    const one = Object.assign(document.createElement("canvas"), { width: side, height });
    one.getContext("2d").putImageData(new ImageData(opaqueInside(fillMask(decodeCounts(mask.counts), mask.size)), side, height), 0, 0);
    context.filter = feather > 0 ? `blur(${(feather * side) / width}px)` : "none";
    context.drawImage(one, 0, 0);
  }
  return canvas;
}
