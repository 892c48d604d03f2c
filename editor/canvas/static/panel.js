// The panel beside the stage: properties of what is chosen, and the reference with its points.

import { fitCanvas } from "./animatic.js";
import { heldBox } from "./boxes.js";
import { SIDE } from "./markup.js";
import { nearestIndex } from "./paths.js";
import { boxGesture } from "./stage.js";

export class Panel {
  constructor(root, model, { actions, pictures }) {
    Object.assign(this, { root, model, actions, pictures });
    root.innerHTML = SIDE;
    this.parts = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
    this.picture = root.querySelector(".cv-picture canvas");
    this.drag = null;
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
    toggle(parts.nothing, Boolean(layer) && !box && !trajectory && !isDrawing);
    toggle(parts.reference, Boolean(layer?.reference));
    toggle(parts.layer, Boolean(layer));
    if (!layer) return;
    if (box) this.showBox(box);
    if (trajectory) this.showPath(trajectory);
    this.showDrawing(tool, trajectory);
    put(parts.nothing.querySelector("[data-note]"), "Drag on the frame to draw a box around where the object should be. Go to another frame and move it: that makes a second key.");
    this.showReference();
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

  showReference() {
    const { model, parts } = this;
    const { reference } = model.layer;
    if (!reference) return;
    const names = Object.keys(reference.points);
    const chosen = model.point === null ? "Click the picture to place a point that a path can move." : `Point ${model.point} is chosen.`;
    put(parts.reference.querySelector("[data-note]"), names.length ? chosen : "Points let paths bend the object. Click the picture, or have some suggested.");
    parts.reference.querySelector('[data-do="deletePoint"]').disabled = model.point === null;
    fill(this.option("suggest"), model.options.suggest);
    this.paintReference();
  }

  showLayer(layer) {
    const { parts } = this;
    fill(parts.layer.querySelector('[data-text="name"]'), layer.name);
    for (const name of ["fit", "anchor", "deform"]) choose(parts.layer.querySelector(`[data-choice="${name}"]`), layer[name]);
    put(parts.layer.querySelector("[data-fault]"), layer.fault ?? "");
    const able = (name, isAble) => { parts.layer.querySelector(`[data-do="${name}"]`).disabled = !isAble; };
    able("raiseLayer", this.model.layerIndex + 1 < this.model.layers.length);
    able("lowerLayer", this.model.layerIndex > 0);
    able("deleteLayer", this.model.layers.length > 1);
  }

  paintReference() {
    const { model, picture } = this;
    const { reference } = model.layer ?? {};
    const width = picture.parentElement.clientWidth;
    if (!reference || width < 8) return;
    const scale = Math.min(width / reference.width, 240 / reference.height);
    this.scale = { width: reference.width * scale, height: reference.height * scale };
    picture.style.width = `${this.scale.width}px`;
    picture.style.height = `${this.scale.height}px`;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    fitCanvas(picture, this.scale.width, this.scale.height, ratio);
    const context = picture.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.scale.width, this.scale.height);
    const bitmap = this.pictures.get(reference.key);
    if (bitmap) context.drawImage(bitmap, 0, 0, this.scale.width, this.scale.height);
    for (const [name, at] of this.points()) this.paintPoint(context, name, at);
  }

  paintPoint(context, name, at) {
    const { model } = this;
    const isFree = model.freePoints(model.layerIndex).includes(name);
    context.beginPath();
    context.arc(at[0], at[1], name === model.point ? 8 : 6, 0, 2 * Math.PI);
    context.fillStyle = isFree ? "rgba(255,255,255,0.7)" : model.pointColor(model.layerIndex, name);
    context.strokeStyle = isFree ? model.pointColor(model.layerIndex, name) : "#fff";
    context.lineWidth = name === model.point ? 3 : 2;
    context.shadowColor = "rgba(0,0,0,0.5)";
    context.shadowBlur = 3;
    context.fill();
    context.stroke();
    context.shadowBlur = 0;
  }

  /** [name, place on the panel's picture] of every point, as the hand has them now. */
  points() {
    const { points } = this.model.layer.reference;
    return Object.entries(points).map(([name, spot]) => {
      const [x, y] = this.drag?.name === name && this.drag.spot ? this.drag.spot : spot;
      return [name, [x * this.scale.width, y * this.scale.height]];
    });
  }

  field(name) {
    return this.root.querySelector(`[data-field="${name}"]`);
  }

  option(name) {
    return this.root.querySelector(`[data-option="${name}"]`);
  }

  // -- hands ----------------------------------------------------------------------------------------------------------------------

  listen() {
    const { root, model, picture } = this;
    root.addEventListener("change", (event) => this.changed(event.target));
    root.addEventListener("input", (event) => event.target.matches('[data-option="falloff"]') && model.set({ falloff: Number(event.target.value) }));
    root.addEventListener("keydown", (event) => event.key === "Enter" && event.target.matches("input") && event.target.blur());
    root.addEventListener("click", (event) => {
      const option = event.target.closest("[data-choice] [data-value]");
      if (option) this.chosen(option.closest("[data-choice]").dataset.choice, option.dataset.value);
    });
    picture.addEventListener("pointerdown", (event) => this.down(event));
    picture.addEventListener("pointermove", (event) => this.move(event));
    picture.addEventListener("pointerup", () => this.up());
    picture.addEventListener("pointercancel", () => { this.drag = null; this.paintReference(); });
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
    else this.actions.edit([{ kind: "set_layer", layer, [name]: value }]);
  }

  place(event) {
    const bounds = this.picture.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  }

  spot([x, y]) {
    return [x / this.scale.width, y / this.scale.height].map((value) => Math.min(Math.max(value, 0), 1));
  }

  down(event) {
    const { model } = this;
    if (!model.layer?.reference || event.button !== 0) return;
    this.picture.focus({ preventScroll: true });
    this.picture.setPointerCapture?.(event.pointerId);
    const at = this.place(event);
    const points = this.points();
    const found = nearestIndex(points.map(([, place]) => place), at, event.pointerType === "touch" ? 20 : 11);
    if (found < 0) {
      this.actions.edit([{ kind: "place_reference_point", layer: model.layerIndex, at: this.spot(at) }], { newPoint: true });
      return;
    }
    const [name] = points[found];
    const lane = model.layer.trajectories.findIndex((each) => each.point === name);
    model.select({ lane: lane < 0 ? "boxes" : lane, point: name });
    this.drag = { name, began: at, spot: null };
  }

  move(event) {
    if (!this.drag) return;
    const at = this.place(event);
    if (!this.drag.spot && Math.hypot(at[0] - this.drag.began[0], at[1] - this.drag.began[1]) < 3) return;
    this.drag.spot = this.spot(at);
    this.paintReference();
  }

  up() {
    const { drag } = this;
    this.drag = null;
    if (drag?.spot) this.actions.edit([{ kind: "place_reference_point", layer: this.model.layerIndex, point: drag.name, at: drag.spot }]);
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
