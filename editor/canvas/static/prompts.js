// The hand that says which thing is meant: clicks and boxes on the frame, and the brush. It belongs to the stage.

import { boxBetween } from "./boxes.js";
import { cssColor, maskColor } from "./masks.js";
import { toStage } from "./view.js";

const MARK_PX = 9;
const MIN_BOX_PX = 8;

/** The click under a place: its index, -1 for none. `clicks` are [x, y, kind] of 0..1, `at` and `reach` in picture pixels. */
export function clickUnder(clicks, at, reach, size) {
  let best = -1;
  let least = reach;
  clicks.forEach(([x, y], index) => {
    const distance = Math.hypot(x * size.width - at[0], y * size.height - at[1]);
    if (distance <= least) [best, least] = [index, distance];
  });
  return best;
}

/** A place of the picture as a document holds it: 0..1, inside the picture. */
export const heldSpot = ([x, y], size) => [x / size.width, y / size.height].map((value) => Math.min(Math.max(value, 0), 1));

/** The gesture of a press that did not move: a click, or one that takes a click away. */
export function clickGesture({ layer, mask, frame, prompt, at, reach, size, isNegative }) {
  const clicks = prompt?.clicks ?? [];
  const found = clickUnder(clicks, at, reach, size);
  if (found >= 0) return { kind: "remove_click", layer, mask, frame, click: found };
  return { kind: "add_click", layer, mask, frame, at: heldSpot(at, size), foreground: !isNegative };
}

/** The box prompt between two places, as a document holds it; null when it is too small to mean one. */
export function promptBox(from, to, size, scale) {
  const { x0, y0, x1, y1 } = boxBetween(from, to, false);
  if ((x1 - x0) * scale < MIN_BOX_PX || (y1 - y0) * scale < MIN_BOX_PX) return null;
  const box = [...heldSpot([x0, y0], size), ...heldSpot([x1, y1], size)];
  return box[2] - box[0] < 0.004 || box[3] - box[1] < 0.004 ? null : box;
}

/** The next size of the brush, in pixels of the picture. */
export const nextBrush = (size, step) => Math.round(Math.min(Math.max(step > 0 ? size * 1.25 + 1 : (size - 1) / 1.25, 2), 300));

export class PromptHand {
  /** masks is the MaskStore, hovering the Hover that shows what a click would find. */
  constructor(stage, masks, hovering) {
    Object.assign(this, { stage, masks, hovering });
    this.glow = null;
    this.pointer = null;
  }

  get model() {
    return this.stage.model;
  }

  get isPainting() {
    return ["brush", "erase"].includes(this.model.options.pick);
  }

  begin(base, event) {
    const { model } = this;
    this.hovering.drop();
    const isRight = event.button === 2;
    const { pick } = model.options;
    if (this.isPainting) {
      const drag = { ...base, kind: "paint", points: [base.from], isEraser: (pick === "erase") !== isRight, frame: model.frame };
      model.setDraft({ maskStroke: drag });
      return drag;
    }
    return { ...base, kind: "prompt", isNegative: pick === "take" || isRight, reach: this.stage.reach(event), frame: model.frame };
  }

  dragTo(drag, to) {
    const { model } = this;
    if (drag.kind === "paint") {
      const last = drag.points[drag.points.length - 1];
      if (Math.hypot(to[0] - last[0], to[1] - last[1]) * this.stage.view.scale >= 1.5 && drag.points.length < 4000) drag.points.push(to);
      this.pointer = to;
      model.setDraft({ maskStroke: drag });
    } else {
      model.setDraft({ promptBox: boxBetween(drag.from, to, false), isNegative: drag.isNegative });
    }
    drag.to = to;
  }

  finish(drag) {
    const { model, stage } = this;
    const target = { layer: model.layerIndex, mask: model.maskName, frame: drag.frame };
    model.select({ lane: model.maskLane });
    if (drag.kind === "paint") {
      const points = drag.points.map(([x, y]) => [x / model.size.width, y / model.size.height].map((value) => Math.min(Math.max(value, -1), 2)));
      this.glow = drag;
      return void stage.actions.edit([{ kind: "paint_mask", ...target, points, radius: model.options.brush / 2 / model.size.width, erase: drag.isEraser }]);
    }
    const prompt = model.mask?.prompts[drag.frame];
    if (!drag.hasMoved) {
      return void stage.actions.edit([clickGesture({ ...target, prompt, at: drag.from, reach: drag.reach, size: model.size, isNegative: drag.isNegative })]);
    }
    const box = promptBox(drag.from, drag.to ?? drag.from, model.size, stage.view.scale);
    if (box && !drag.isNegative) return void stage.actions.edit([{ kind: "set_prompt_box", ...target, box }]);
    stage.actions.say(box ? "A box goes around the thing itself; click on what does not belong to it." : "Drag a box around the whole thing, or click on it.");
    stage.abandon();
    return undefined;
  }

  /** The brush follows the pointer, and a mouse that rests is shown what a click would find. True if something has to be painted. */
  hover(at, event) {
    this.pointer = this.isPainting ? at : null;
    this.hovering.point(event.pointerType === "mouse" ? this.aimAt(at, this.stage.reach(event)) : null);
    return this.isPainting;
  }

  /** What a click at `at` would be asked of the server; null where it would mean something else. */
  aimAt(at, reach) {
    const { model } = this;
    const prompt = model.mask?.prompts[model.frame];
    if (model.options.pick !== "add" || model.mask?.path || this.stage.actions.isPlaying()) return null;
    if (model.mask?.edits.includes(model.frame) || clickUnder(prompt?.clicks ?? [], at, reach, model.size) >= 0) return null;
    const [x, y] = [at[0] / model.size.width, at[1] / model.size.height];
    return x < 0 || y < 0 || x >= 1 || y >= 1 ? null : { layer: model.layerIndex, mask: model.maskName, frame: model.frame, at: [x, y] };
  }

  // -- painting -------------------------------------------------------------------------------------------------------------------

  /** The masks of the chosen layer, the one that is worked on firmer than the others. */
  paintMasks() {
    const { model, stage, masks } = this;
    const { context, view } = stage;
    if (!model.showsMasks) return;
    const ghost = model.options.tool === "mask" && model.options.pick === "add" && this.hovering.find(model.layerIndex, model.maskName, model.frame);
    if (ghost) {
      context.save();
      context.globalAlpha = 0.55;
      context.drawImage(ghost, view.x, view.y, model.size.width * view.scale, model.size.height * view.scale);
      context.restore();
    }
    for (const name of model.masksOf(model.layerIndex)) {
      const found = masks.bitmap(model.layerIndex, name, model.frame);
      if (!found) continue;
      const soft = (model.maskOf(model.layerIndex, name)?.feather_px ?? 0) * view.scale * stage.ratio;
      context.save();
      context.globalAlpha = name === model.maskName ? 1 : 0.45;
      context.imageSmoothingEnabled = true;
      if (soft > 0.2) context.filter = `blur(${soft.toFixed(1)}px)`;
      context.drawImage(found.canvas, view.x, view.y, model.size.width * view.scale, model.size.height * view.scale);
      context.restore();
    }
  }

  /** Clicks, boxes, and what the hand draws now. */
  paintMarks() {
    const { model, stage } = this;
    if (model.options.tool !== "mask") return;
    const color = cssColor(maskColor(model.maskName));
    const prompt = model.mask?.prompts[model.frame];
    if (prompt?.box) this.paintBox(prompt.box.map((value, index) => value * (index % 2 ? model.size.height : model.size.width)), color);
    const { draft } = model;
    if (draft?.promptBox) this.paintBox([draft.promptBox.x0, draft.promptBox.y0, draft.promptBox.x1, draft.promptBox.y1], color);
    for (const stroke of [this.glow, draft?.maskStroke]) if (stroke && stroke.frame === model.frame) this.paintStroke(stroke, color);
    for (const [x, y, kind] of prompt?.clicks ?? []) {
      this.paintClick(toStage(stage.view, [x * model.size.width, y * model.size.height]), kind === 1);
    }
    if (this.pointer && this.isPainting) this.paintRing();
  }

  paintBox([x0, y0, x1, y1], color) {
    const { stage } = this;
    stage.outline([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]);
    stage.stroke(color, 1.75, [6, 4]);
  }

  paintStroke({ points, isEraser }, color) {
    const { stage, model } = this;
    const { context } = stage;
    context.save();
    stage.outline(points.length > 1 ? points : [points[0], [points[0][0] + 0.01, points[0][1]]], false);
    context.globalAlpha = 0.5;
    context.strokeStyle = isEraser ? "#0f172a" : color;
    context.lineWidth = model.options.brush * stage.view.scale;
    context.stroke();
    context.restore();
  }

  paintClick([x, y], isPositive) {
    const { context } = this.stage;
    this.stage.dot([x, y], MARK_PX, isPositive ? "#15803d" : "#b91c1c", "#fff");
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x - 4, y);
    context.lineTo(x + 4, y);
    if (isPositive) {
      context.moveTo(x, y - 4);
      context.lineTo(x, y + 4);
    }
    context.stroke();
  }

  paintRing() {
    const { stage, model } = this;
    const { context } = stage;
    const [x, y] = toStage(stage.view, this.pointer);
    context.beginPath();
    context.arc(x, y, Math.max((model.options.brush / 2) * stage.view.scale, 2), 0, 2 * Math.PI);
    stage.stroke("#fff", 1.25, model.options.pick === "erase" ? [4, 3] : []);
  }
}
