// The panel beside the stage: properties of what is chosen; the reference part is reference.js.

import { heldBox } from "./boxes.js";
import { FollowPart } from "./follow.js";
import { SIDE } from "./markup.js";
import { ReferencePanel } from "./reference.js";
import { boxGesture } from "./stage.js";

export class Panel {
  constructor(root, model, { actions, pictures, dialog, offer }) {
    Object.assign(this, { root, model, actions });
    root.innerHTML = SIDE;
    this.parts = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
    this.reference = new ReferencePanel(this.parts.reference, dialog, model, { actions, pictures });
    this.follow = new FollowPart(this.parts.follow, offer, model, { edit: actions.edit, ask: actions.ask });
    this.listen();
  }

  // -- showing --------------------------------------------------------------------------------------------------------------------

  show() {
    const { model, parts } = this;
    const { layer, trajectory } = model;
    const { tool } = model.options;
    const box = layer && model.box(model.layerIndex, model.frame);
    const isDrawing = Boolean(layer) && !trajectory && (tool === "path" || tool === "draw");
    toggle(parts.box, Boolean(box) && !trajectory && !isDrawing);
    toggle(parts.path, Boolean(trajectory));
    toggle(parts.drawing, isDrawing || (Boolean(trajectory) && (tool === "path" || tool === "draw")));
    toggle(parts.nothing, Boolean(layer) && layer.kind === "insert" && !box && !trajectory && !isDrawing);
    toggle(parts.reference, Boolean(layer) && layer.kind !== "remove");
    toggle(parts.layer, Boolean(layer));
    this.follow.show();
    if (!layer) return;
    if (box) this.showBox(box);
    if (trajectory) this.showPath(trajectory);
    this.showDrawing(tool, trajectory);
    put(parts.nothing.querySelector("[data-note]"), "Drag on the frame to draw a box around where the object should be. Go to another frame and move it: that makes a second key.");
    this.reference.show();
    this.showLayer(layer);
  }

  showBox(box) {
    const { model, parts } = this;
    const key = model.keysOf(model.layerIndex, "boxes")[model.frame];
    parts.box.querySelector("[data-swatch]").style.background = model.layerColor(model.layerIndex);
    put(parts.box.querySelector("[data-where]"), key ? `key at ${model.frame}` : `between keys, frame ${model.frame}`);
    const values = { x: box.x0, y: box.y0, w: box.x1 - box.x0, h: box.y1 - box.y0, turn: box.turn };
    for (const [name, value] of Object.entries(values)) fill(this.field(name), tidy(value));
    for (const each of parts.box.querySelectorAll("[data-when]")) toggle(each, (each.dataset.when === "key") === Boolean(key));
    choose(parts.box.querySelector('[data-choice="ease"]'), key?.ease ?? "linear");
    for (const name of ["enter", "leave"]) parts.box.querySelector(`[data-check="${name}"]`).checked = Boolean(key?.[name]);
  }

  showPath(trajectory) {
    const { model, parts } = this;
    const here = model.path(model.layerIndex, model.lane)[model.frame];
    parts.path.querySelector("[data-swatch]").style.background = model.pointColor(model.layerIndex, trajectory.point);
    const isNode = String(model.frame) in trajectory.keys;
    put(parts.path.querySelector("[data-where]"), `${trajectory.point}, ${isNode ? "node at" : "frame"} ${model.frame}`);
    fill(this.field("px"), tidy(here[0] * model.size.width));
    fill(this.field("py"), tidy(here[1] * model.size.height));
    const spans = trajectory.visible ?? [[0, model.clip.num_frames]];
    fill(this.field("from"), spans[0][0]);
    fill(this.field("to"), spans[spans.length - 1][1] - 1);
    choose(parts.path.querySelector('[data-choice="pathEase"]'), trajectory.ease ?? "smooth");
    fill(this.option("falloff"), model.options.falloff);
    put(parts.path.querySelector('[data-out="falloff"]'), `${model.options.falloff} frames`);
  }

  showDrawing(tool, trajectory) {
    const { model, parts } = this;
    for (const each of parts.drawing.querySelectorAll("[data-when]")) toggle(each, each.dataset.when === tool);
    choose(parts.drawing.querySelector('[data-choice="spacing"]'), model.options.spacing);
    fill(this.option("advance"), model.options.advance);
    put(parts.drawing.querySelector("h3"), trajectory ? "This path" : "New path");
    const where = model.point === null ? "The point under your hand" : `Point ${model.point}`;
    const how = tool === "draw" ? "draw where it should go; the stroke fills the range." : "click where it should be at this frame, go on, click again.";
    put(parts.drawing.querySelector("[data-note]"), trajectory ? "A stroke replaces its nodes, a click adds one. N begins another path." : `${where}: ${how}`);
  }

  showLayer(layer) {
    const { parts } = this;
    fill(parts.layer.querySelector('[data-text="name"]'), layer.name);
    choose(parts.layer.querySelector('[data-choice="layer_kind"]'), layer.kind);
    for (const name of ["fit", "anchor", "deform"]) choose(parts.layer.querySelector(`[data-choice="${name}"]`), layer[name]);
    put(parts.layer.querySelector("[data-fault]"), layer.fault ?? "");
    const able = (name, isAble) => { parts.layer.querySelector(`[data-do="${name}"]`).disabled = !isAble; };
    able("raiseLayer", this.model.layerIndex + 1 < this.model.layers.length);
    able("lowerLayer", this.model.layerIndex > 0);
    able("deleteLayer", this.model.layers.length > 1);
  }

  field(name) {
    return this.root.querySelector(`[data-field="${name}"]`);
  }

  option(name) {
    return this.root.querySelector(`[data-option="${name}"]`);
  }

  // -- hands ----------------------------------------------------------------------------------------------------------------------

  listen() {
    const { root, model } = this;
    root.addEventListener("change", (event) => this.changed(event.target));
    root.addEventListener("input", (event) => event.target.matches('[data-option="falloff"]') && model.set({ falloff: Number(event.target.value) }));
    root.addEventListener("keydown", (event) => event.key === "Enter" && event.target.matches("input") && event.target.blur());
    root.addEventListener("click", (event) => {
      const option = event.target.closest("[data-choice] [data-value]");
      if (option) this.chosen(option.closest("[data-choice]").dataset.choice, option.dataset.value);
    });
  }

  changed(input) {
    const { model } = this;
    if (input.dataset.option) return void this.optionChanged(input);
    if (input.dataset.check) return void this.presenceChanged();
    if (input.dataset.text) {
      if (input.value.trim()) this.actions.edit([{ kind: "set_layer", layer: model.layerIndex, name: input.value.trim() }]);
      return undefined;
    }
    const value = Number(input.value);
    if (!input.dataset.field || input.value === "" || !Number.isFinite(value)) return void this.show();
    if (["x", "y", "w", "h", "turn"].includes(input.dataset.field)) return void this.boxChanged(input.dataset.field, value);
    if (["px", "py"].includes(input.dataset.field)) return void this.nodeChanged(input.dataset.field, value);
    return void this.spanChanged();
  }

  optionChanged(input) {
    const { min, max } = input;
    const value = Math.round(Math.min(Math.max(Number(input.value) || 0, Number(min)), Number(max)));
    this.model.set({ [input.dataset.option]: value });
  }

  presenceChanged() {
    const { model, parts } = this;
    const read = (name) => parts.box.querySelector(`[data-check="${name}"]`).checked;
    this.actions.edit([{ kind: "set_presence", layer: model.layerIndex, frame: model.frame, enter: read("enter"), leave: read("leave") }]);
  }

  boxChanged(name, value) {
    const { model } = this;
    const box = { ...model.box(model.layerIndex, model.frame) };
    if (name === "x") [box.x0, box.x1] = [value, value + box.x1 - box.x0];
    if (name === "y") [box.y0, box.y1] = [value, value + box.y1 - box.y0];
    if (name === "w") box.x1 = box.x0 + Math.max(value, 4);
    if (name === "h") box.y1 = box.y0 + Math.max(value, 4);
    if (name === "turn") box.turn = value;
    this.actions.edit([boxGesture(model.layerIndex, model.frame, heldBox(box, model.size), model.size)]);
  }

  nodeChanged(name, value) {
    const { model } = this;
    const [x, y] = model.path(model.layerIndex, model.lane)[model.frame];
    const at = name === "px" ? [value / model.size.width, y] : [x, value / model.size.height];
    const held = at.map((each) => Math.min(Math.max(each, -1), 2));
    this.actions.edit([{ kind: "add_node", layer: model.layerIndex, trajectory: model.lane, frame: model.frame, at: held }]);
  }

  spanChanged() {
    const { model } = this;
    const last = model.clip.num_frames - 1;
    const hold = (value) => Math.round(Math.min(Math.max(Number(value) || 0, 0), last));
    const [from, to] = [hold(this.field("from").value), hold(this.field("to").value)].sort((a, b) => a - b);
    const ranges = from === 0 && to === last ? null : [[from, to + 1]];
    this.actions.edit([{ kind: "set_visible", layer: model.layerIndex, trajectory: model.lane, ranges }]);
  }

  chosen(name, value) {
    const { model } = this;
    const layer = model.layerIndex;
    if (name === "spacing") model.set({ spacing: value });
    else if (name === "ease") this.actions.edit([{ kind: "set_ease", layer, lane: "boxes", frame: model.frame, ease: value }]);
    else if (name === "pathEase") this.actions.edit([{ kind: "set_ease", layer, lane: model.lane, ease: value }]);
    else if (name === "follow") this.follow.choose(value) || this.actions.say("Draw a box around it first; then the object can stick to what is in it.");
    else if (name === "followKind") this.follow.chooseKind(value);
    else this.actions.edit([{ kind: "set_layer", layer, [name]: value }]);
  }
}

function toggle(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Fill an input unless the person is typing in it. */
function fill(input, value) {
  if (document.activeElement !== input && input.value !== String(value)) input.value = String(value);
}

function choose(group, value) {
  for (const option of group.querySelectorAll("[data-value]")) option.setAttribute("aria-checked", String(option.dataset.value === value));
}

const tidy = (value) => Math.round(value * 10) / 10;
