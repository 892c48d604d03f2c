// The stage: the current frame, the animatic over it, and the boxes and paths that the hand takes hold of.

import { chain, fitCanvas, makePainter, spotUnder } from "./animatic.js";
import {
  boxBetween, carry, centreOf, cornersOf, dragBox, handleAt, HANDLES, heldBox, partAt, rotationHandle, toDocument,
} from "./boxes.js";
import { pointGesture } from "./follow.js";
import { Fronts } from "./fronts.js";
import { frameOnPath, framesOf, heldPoint, movedKeys, nearestIndex, nextKey, Stroke } from "./paths.js";
import { PromptHand } from "./prompts.js";
import { fitView, holdOnStage, toPicture, toStage, zoomAt } from "./view.js";

const ROTATION_PX = 26;
const CURSORS = {
  nw: "nwse-resize", se: "nwse-resize", ne: "nesw-resize", sw: "nesw-resize", n: "ns-resize", s: "ns-resize",
  e: "ew-resize", w: "ew-resize", move: "move", rotate: "grab",
};

export class Stage {
  /** actions: {edit(gestures), preview(gestures), pause(), say(sentence)}; meshes is a MeshStore, pictures maps layers to bitmaps. */
  constructor(root, model, { actions, meshes, pictures, masks, hovering }) {
    Object.assign(this, { root, model, actions, meshes, pictures });
    this.prompts = new PromptHand(this, masks, hovering);
    const canvas = (name) => root.querySelector(`.cv-${name}`);
    this.frameCanvas = canvas("frame");
    this.overlay = canvas("overlay");
    this.painter = makePainter(canvas("animatic"));
    this.fronts = new Fronts(model, masks, (picture) => this.painter.forget(picture));
    this.frames = null;
    this.view = null;
    this.isFitted = true;
    this.drag = null;
    this.pointers = new Map();
    this.isSpace = false;
    this.paintedFrame = null;
    this.preview = null;
    this.carried = null;
    this.listen();
  }

  // -- the view -------------------------------------------------------------------------------------------------------------------

  resize() {
    const { width, height } = this.root.getBoundingClientRect();
    if (width < 2 || height < 2) return;
    this.bounds = { width, height };
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    if (!this.view || this.isFitted) this.fit();
    else this.view = holdOnStage(this.view, this.bounds, this.model.size);
  }

  fit() {
    if (!this.bounds) return;
    this.view = fitView(this.bounds, this.model.size);
    this.isFitted = true;
    this.actions.viewChanged();
  }

  zoom(factor, at = [this.bounds.width / 2, this.bounds.height / 2]) {
    if (!this.view) return;
    const fitScale = fitView(this.bounds, this.model.size).scale;
    this.view = holdOnStage(zoomAt(this.view, factor, at, fitScale), this.bounds, this.model.size);
    this.isFitted = false;
    this.actions.viewChanged();
  }

  get percent() {
    return this.view ? Math.round(this.view.scale * 100) : 100;
  }

  pan(dx, dy) {
    this.view = holdOnStage({ ...this.view, x: this.view.x + dx, y: this.view.y + dy }, this.bounds, this.model.size);
    this.isFitted = false;
    this.actions.viewChanged();
  }

  // -- painting -------------------------------------------------------------------------------------------------------------------

  paintFrame() {
    const { model, view, bounds, frames } = this;
    if (!bounds || !view) return;
    const context = this.frameCanvas.getContext("2d", { alpha: false });
    fitCanvas(this.frameCanvas, bounds.width, bounds.height, this.ratio);
    this.well ??= getComputedStyle(this.root).getPropertyValue("--cv-well").trim();
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = this.well;
    context.fillRect(0, 0, bounds.width, bounds.height);
    if (!model.clip || !frames) return;
    const exact = frames.find(model.frame);
    const bitmap = exact ?? frames.nearest(model.frame);
    if (bitmap) {
      context.imageSmoothingEnabled = true;
      context.imageSmoothingQuality = view.scale * this.ratio < 1 ? "medium" : "low";
      context.drawImage(bitmap, view.x, view.y, model.size.width * view.scale, model.size.height * view.scale);
    }
    this.paintedFrame = exact ? model.frame : null;
    this.root.dataset.paintedFrame = this.paintedFrame ?? "";
  }

  /** Picture 0..1 to CSS pixels of the stage. */
  get documentMap() {
    const { view, model } = this;
    return [view.scale * model.size.width, 0, 0, view.scale * model.size.height, view.x, view.y];
  }

  paintAnimatic() {
    const { model, bounds } = this;
    if (!bounds || !this.view) return;
    this.painter.begin(bounds.width, bounds.height, this.ratio);
    model.layers.forEach((layer, index) => {
      const bitmap = this.pictures.get(layer.reference?.key);
      const mesh = this.meshOf(index);
      if (!model.drawsCutout(index) || !bitmap || !mesh?.exists) return;
      const { uv, triangles } = layer.motion;
      if (mesh.vertices.length !== uv.length) return;
      const front = this.fronts.find(index, model.frame);
      this.painter.draw({ bitmap, uv, triangles, vertices: mesh.vertices, carry: mesh.map, view: this.documentMap, opacity: layer.opacity, front });
    });
  }

  /** The mesh of a layer as drawn now: {vertices, exists, map}, moved along while its box is dragged; the last one until its successor comes. */
  meshOf(layer) {
    const { model, carried } = this;
    const same = [1, 0, 0, 1, 0, 0];
    if (this.preview?.layer === layer && this.preview.frame === model.frame) return { ...this.preview.mesh, map: same };
    if (carried?.layer === layer && carried.frame === model.frame) return { ...carried.mesh, map: carried.map };
    const mesh = this.meshes.find(layer, model.frame);
    return mesh && { ...mesh, map: same };
  }

  paintOverlay() {
    const { model, bounds, view } = this;
    if (!bounds || !view) return;
    const context = this.overlay.getContext("2d");
    fitCanvas(this.overlay, bounds.width, bounds.height, this.ratio);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, bounds.width, bounds.height);
    if (!model.clip) return;
    this.context = context;
    context.lineJoin = "round";
    context.lineCap = "round";
    context.strokeStyle = "rgba(148, 163, 184, 0.55)";
    context.lineWidth = 1;
    context.strokeRect(view.x - 0.5, view.y - 0.5, model.size.width * view.scale + 1, model.size.height * view.scale + 1);
    this.prompts.paintMasks();
    const isPicking = model.options.tool === "mask";
    model.layers.forEach((layer, index) => {
      if (!isPicking && !layer.hidden && index !== model.layerIndex) this.paintLayer(index, false);
    });
    if (!isPicking && model.layer && !model.layer.hidden) this.paintLayer(model.layerIndex, true);
    this.paintDraft();
    if (model.options.tool === "surface") this.paintSurface(model.layer?.follow);
    if (!this.actions.isPlaying()) this.prompts.paintMarks();
  }

  paintLayer(index, isActive) {
    const { model } = this;
    const playing = this.actions.isPlaying();
    if (isActive && model.options.showOnion && !playing) this.paintOnion(index);
    model.layers[index].trajectories.forEach((trajectory, lane) => this.paintPath(index, lane, isActive && model.lane === lane && !playing));
    const box = model.box(index, model.frame);
    if (box && model.exists(index, model.frame)) this.paintBox(index, box, isActive && !playing);
    if (isActive && !playing) this.paintFreePoints(index);
  }

  outline(points, isClosed = true) {
    const { context } = this;
    context.beginPath();
    for (const point of points) context.lineTo(...toStage(this.view, point));
    if (isClosed) context.closePath();
  }

  /** A line with a dark casing, so that it reads on any footage. */
  stroke(color, width, dash = []) {
    const { context } = this;
    context.setLineDash([]);
    context.strokeStyle = dash.length ? "rgba(10, 14, 20, 0.3)" : "rgba(10, 14, 20, 0.55)";
    context.lineWidth = width + 2;
    context.stroke();
    context.setLineDash(dash);
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke();
    context.setLineDash([]);
  }

  paintBox(index, box, isActive) {
    const { model, context } = this;
    const color = model.layerColor(index);
    const isKey = model.hasKey(index, "boxes", model.frame) || (model.draft?.box && model.draft.layer === index);
    this.outline(cornersOf(box));
    this.stroke(color, isActive ? 1.75 : 1.25, isKey ? [] : [9, 6]);
    if (!isActive || model.lane !== "boxes" || !["select", "box"].includes(model.options.tool)) return;
    const spin = toStage(this.view, rotationHandle(box, ROTATION_PX / this.view.scale));
    const top = toStage(this.view, handleAt(box, "n"));
    context.beginPath();
    context.moveTo(...top);
    context.lineTo(...spin);
    this.stroke(color, 1.25);
    this.dot(spin, 5.5, "#fff", color);
    for (const name of HANDLES) this.grip(toStage(this.view, handleAt(box, name)), color, name.length === 2);
  }

  grip([x, y], color, isCorner) {
    const { context } = this;
    const side = isCorner ? 9 : 7;
    context.fillStyle = "#fff";
    context.strokeStyle = "rgba(10, 14, 20, 0.65)";
    context.lineWidth = 1;
    context.beginPath();
    context.roundRect(Math.round(x) - side / 2, Math.round(y) - side / 2, side, side, 2);
    context.fill();
    context.stroke();
    context.fillStyle = color;
    context.fillRect(Math.round(x) - side / 2 + 2, Math.round(y) - side / 2 + 2, side - 4, side - 4);
  }

  dot([x, y], radius, fill, rim, width = 2) {
    const { context } = this;
    context.beginPath();
    context.arc(x, y, radius + 1, 0, 2 * Math.PI);
    context.fillStyle = "rgba(10, 14, 20, 0.5)";
    context.fill();
    context.beginPath();
    context.arc(x, y, radius - width / 2, 0, 2 * Math.PI);
    context.fillStyle = fill;
    context.strokeStyle = rim;
    context.lineWidth = width;
    context.fill();
    context.stroke();
  }

  /** The boxes of the keys before and after this frame, and the way of the centre between all keys. */
  paintOnion(index) {
    const { model, context } = this;
    const keys = model.keysOf(index, "boxes");
    const color = model.layerColor(index);
    for (const direction of [-1, 1]) {
      const frame = nextKey(keys, model.frame, direction);
      if (frame === null) continue;
      context.globalAlpha = 0.7;
      const box = model.box(index, frame);
      this.outline(cornersOf(box));
      this.stroke(color, 1.25, [3, 4]);
      const [x, y] = toStage(this.view, cornersOf(box)[0]);
      this.tag(String(frame), x, y - 4, color);
      context.globalAlpha = 1;
    }
    const frames = framesOf(keys);
    if (frames.length < 2) return;
    const centres = [];
    for (let frame = frames[0]; frame <= frames[frames.length - 1]; frame += 1) centres.push(centreOf(model.box(index, frame)));
    context.globalAlpha = 0.9;
    this.outline(centres, false);
    this.stroke(color, 1.25, [2, 4]);
    context.globalAlpha = 1;
  }

  tag(text, x, y, color) {
    const { context } = this;
    context.font = "600 11px ui-sans-serif, system-ui, sans-serif";
    const width = context.measureText(text).width + 8;
    context.fillStyle = color;
    context.beginPath();
    context.roundRect(x, y - 14, width, 15, 3);
    context.fill();
    context.fillStyle = "#0b1220";
    context.fillText(text, x + 4, y - 3);
  }

  toPixels([x, y]) {
    return [x * this.model.size.width, y * this.model.size.height];
  }

  paintPath(index, lane, isActive) {
    const { model, context } = this;
    const trajectory = model.layers[index].trajectories[lane];
    const color = model.pointColor(index, trajectory.point);
    const draft = model.draft?.lane === lane && model.draft.layer === index ? model.draft : null;
    const points = model.path(index, lane).map((point) => this.toPixels(point));
    const keys = draft?.keys ?? trajectory.keys;
    const frames = framesOf(keys);
    context.globalAlpha = isActive ? 1 : 0.75;
    this.outline(draft?.keys && !draft.points ? frames.map((frame) => this.toPixels(keys[frame])) : points, false);
    this.stroke(color, isActive ? 2 : 1.5, draft?.keys && !draft.points ? [3, 4] : []);
    context.globalAlpha = 1;
    if (isActive) {
      for (const frame of frames) {
        const at = toStage(this.view, this.toPixels(keys[frame]));
        this.dot(at, frame === model.key ? 6 : 4.5, frame === model.frame ? "#fff" : color, frame === model.key ? "#fff" : color);
      }
    }
    const here = keys[model.frame] && draft ? keys[model.frame] : model.path(index, lane)[model.frame];
    if (!here) return;
    const at = toStage(this.view, this.toPixels(here));
    const shown = model.isVisible(trajectory, model.frame);
    this.dot(at, isActive ? 8 : 6, shown ? color : "transparent", "#fff", isActive ? 2.5 : 2);
  }

  paintFreePoints(index) {
    const { model } = this;
    const mesh = this.meshOf(index);
    if (!mesh?.exists) return;
    for (const { at, name } of this.freePlaces(index, mesh)) {
      const isChosen = name === model.point;
      this.dot(toStage(this.view, at), isChosen ? 7 : 5, "rgba(255,255,255,0.25)", model.pointColor(index, name), isChosen ? 3 : 2);
    }
  }

  freePlaces(index, mesh) {
    const [a, b, c, d, e, f] = mesh.map;
    return this.model.freePoints(index).flatMap((name) => {
      const place = this.model.carried(index, name, mesh.vertices);
      if (!place) return [];
      const [x, y] = place;
      return [{ name, at: this.toPixels([a * x + c * y + e, b * x + d * y + f]) }];
    });
  }

  /** The points that the object sticks to, at the frame where they lie. */
  paintSurface(tie) {
    if (!tie?.points || tie.key_frame !== this.model.frame) return;
    for (const point of tie.points) this.dot(toStage(this.view, this.toPixels(point)), 7, "#0f172a", "#facc15", 3);
  }

  paintDraft() {
    const { draft } = this.model;
    if (draft?.newBox) {
      this.outline(cornersOf(draft.newBox));
      this.stroke(this.model.layerColor(this.model.layerIndex), 1.75);
    }
    if (draft?.stroke) {
      this.outline(draft.stroke.points.map((point) => this.toPixels(point)), false);
      this.stroke(draft.color, 2.5);
    }
  }

  themeChanged() {
    this.well = null;
  }

  // -- hands ----------------------------------------------------------------------------------------------------------------------

  listen() {
    const { overlay } = this;
    overlay.addEventListener("pointerdown", (event) => this.down(event));
    overlay.addEventListener("pointermove", (event) => this.move(event));
    overlay.addEventListener("pointerup", (event) => this.up(event));
    overlay.addEventListener("pointercancel", (event) => this.cancel(event));
    overlay.addEventListener("pointerleave", () => this.prompts.hovering.drop());
    overlay.addEventListener("contextmenu", (event) => event.preventDefault());
    overlay.addEventListener("dblclick", () => this.model.options.tool === "hand" && this.fit());
    this.root.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  place(event) {
    const bounds = this.overlay.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  }

  reach(event) {
    return (event.pointerType === "touch" ? 22 : 11) / this.view.scale;
  }

  wheel(event) {
    const isWanted = event.ctrlKey || event.metaKey || this.root.closest(".cv-root").contains(document.activeElement);
    if (!this.view || !isWanted) return;
    event.preventDefault();
    const step = event.deltaMode === 1 ? 24 * event.deltaY : event.deltaY;
    this.zoom(Math.exp(-Math.min(Math.max(step, -200), 200) * (event.ctrlKey ? 0.01 : 0.0022)), this.place(event));
  }

  down(event) {
    if (!this.model.clip || !this.view) return;
    this.overlay.focus({ preventScroll: true });
    try {
      this.overlay.setPointerCapture(event.pointerId);
    } catch {
      // The pointer is gone already; the gesture still works inside the stage.
    }
    this.pointers.set(event.pointerId, this.place(event));
    if (this.pointers.size === 2) return this.beginPinch();
    if (this.pointers.size > 2 || this.drag) return undefined;
    if (event.button === 1 || this.isSpace || this.model.options.tool === "hand") {
      this.drag = { kind: "pan", last: this.place(event) };
    } else if (event.button === 0 || (event.button === 2 && this.model.options.tool === "mask")) {
      this.actions.pause();
      this.drag = this.begin(event);
    }
    return undefined;
  }

  beginPinch() {
    this.abandon();
    const [a, b] = [...this.pointers.values()];
    this.drag = { kind: "pinch", middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], distance: Math.hypot(a[0] - b[0], a[1] - b[1]) };
  }

  /** What a press takes hold of. */
  begin(event) {
    const { model } = this;
    const from = toPicture(this.view, this.place(event));
    const base = { from, began: this.place(event), hasMoved: false, event };
    const { tool } = model.options;
    if (!model.layer) return { ...base, kind: "none" };
    if (tool === "mask") return this.prompts.begin(base, event);
    if (model.layer.kind === "remove") {
      this.actions.say("A layer that removes something does not move; press S and click on the thing.");
      return { ...base, kind: "none" };
    }
    if (tool === "surface") return { ...base, kind: "surface", reach: this.reach(event) };
    if (tool === "draw") return this.beginStroke(base, event);
    if (tool === "box") return this.boxPart(base, event) ?? { ...base, kind: "newBox" };
    const node = this.nodeUnder(base, event);
    if (node) return node;
    if (tool === "path") return { ...base, kind: "addNode" };
    return this.boxPart(base, event) ?? this.otherUnder(base, event);
  }

  /** A node of the chosen path, the place of any path at this frame, or a point that merely follows the object. */
  nodeUnder(base, event) {
    const { model } = this;
    const reach = this.reach(event);
    const layer = model.layerIndex;
    const lanes = model.layer.trajectories.map((_, lane) => lane).sort((a, b) => Number(b === model.lane) - Number(a === model.lane));
    for (const lane of lanes) {
      const here = model.path(layer, lane)[model.frame];
      if (here && nearestIndex([this.toPixels(here)], base.from, reach) === 0) return this.beginNode(base, lane, model.frame);
      if (lane !== model.lane) continue;
      const frames = model.framesOf(layer, lane);
      const keys = model.keysOf(layer, lane);
      const found = nearestIndex(frames.map((frame) => this.toPixels(keys[frame])), base.from, reach);
      if (found >= 0) return this.beginNode(base, lane, frames[found]);
    }
    const mesh = this.meshOf(layer);
    const free = mesh?.exists ? this.freePlaces(layer, mesh) : [];
    const found = nearestIndex(free.map((each) => each.at), base.from, reach);
    if (found < 0) return null;
    model.select({ point: free[found].name, lane: "boxes" });
    return { ...base, kind: "pin", point: free[found].name };
  }

  beginNode(base, lane, frame) {
    const { model } = this;
    model.goTo(frame);
    const isKey = model.hasKey(model.layerIndex, lane, frame);
    model.select({ lane, key: isKey ? frame : null });
    const keys = { ...model.keysOf(model.layerIndex, lane) };
    if (!isKey) keys[frame] = model.path(model.layerIndex, lane)[frame];
    return { ...base, kind: "node", lane, frame, isKey, keys, grip: keys[frame] };
  }

  boxPart(base, event) {
    const { model } = this;
    const box = model.box(model.layerIndex, model.frame);
    if (!box || !model.exists(model.layerIndex, model.frame)) return null;
    const part = partAt(box, base.from, this.reach(event), ROTATION_PX / this.view.scale);
    if (!part || (model.options.tool === "box" && part === "move" && event.altKey)) return null;
    model.select({ lane: "boxes", key: model.hasKey(model.layerIndex, "boxes", model.frame) ? model.frame : null });
    const mesh = this.meshes.find(model.layerIndex, model.frame);
    return { ...base, kind: "box", part, start: box, mesh, frame: model.frame };
  }

  /** Nothing of the chosen layer: another layer's box, a path, or empty picture. */
  otherUnder(base, event) {
    const { model } = this;
    const reach = this.reach(event);
    for (let lane = 0; lane < model.layer.trajectories.length; lane += 1) {
      const points = model.path(model.layerIndex, lane).map((point) => this.toPixels(point));
      const frame = frameOnPath(points, base.from, reach);
      if (frame === null) continue;
      model.select({ lane });
      return { ...base, kind: "wholePath", lane, keys: model.keysOf(model.layerIndex, lane), points: model.path(model.layerIndex, lane) };
    }
    for (let index = model.layers.length - 1; index >= 0; index -= 1) {
      const box = model.box(index, model.frame);
      if (index === model.layerIndex || model.layers[index].hidden || !box || !partAt(box, base.from, 0, 0)) continue;
      model.select({ layer: index, lane: "boxes" });
      return { ...base, kind: "none" };
    }
    model.select({ lane: "boxes" });
    return { ...base, kind: model.layer.boxes ? "pan" : "newBox", last: this.place(event) };
  }

  beginStroke(base, event) {
    const { model } = this;
    const stroke = new Stroke(this.documentPoint(base.from), event.timeStamp);
    const color = model.point === null ? "#fff" : model.pointColor(model.layerIndex, model.point);
    model.setDraft({ stroke, color });
    return { ...base, kind: "stroke", stroke, anchor: this.anchorUnder(base.from) };
  }

  documentPoint([x, y]) {
    return heldPoint([x / this.model.size.width, y / this.model.size.height]);
  }

  /** The spot of the reference that lies under a place of the picture, for a path that begins there; null beside the object. */
  anchorUnder(from) {
    const { motion } = this.model.layer;
    const mesh = this.meshes.find(this.model.layerIndex, this.model.frame);
    if (!motion || !mesh?.exists) return null;
    const spot = spotUnder(motion.uv, motion.triangles, mesh.vertices, [from[0] / this.model.size.width, from[1] / this.model.size.height]);
    return spot && spot.map((value) => Math.min(Math.max(value, 0), 1));
  }

  move(event) {
    if (!this.view || !this.model.clip) return;
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, this.place(event));
    if (!this.drag) return void this.hover(event);
    const at = this.place(event);
    if (this.drag.kind === "pinch") return void this.pinch();
    if (this.drag.kind === "pan") {
      this.pan(at[0] - this.drag.last[0], at[1] - this.drag.last[1]);
      this.drag.last = at;
      return;
    }
    if (!this.drag.hasMoved && this.drag.kind !== "stroke") {
      if (Math.hypot(at[0] - this.drag.began[0], at[1] - this.drag.began[1]) < 3) return;
      this.drag.hasMoved = true;
    }
    const samples = this.drag.kind === "stroke" && event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const sample of samples.length ? samples : [event]) this.dragTo(toPicture(this.view, this.place(sample)), sample, event);
  }

  dragTo(to, sample, event) {
    const { drag, model } = this;
    const layer = model.layerIndex;
    if (drag.kind === "prompt" || drag.kind === "paint") {
      this.prompts.dragTo(drag, to);
    } else if (drag.kind === "box") {
      const options = {
        isLocked: model.options.isLocked !== event.shiftKey, isCentred: event.altKey, isSnapped: event.shiftKey,
        minimum: Math.max(4, 0.0025 * Math.max(model.size.width, model.size.height)),
      };
      const box = heldBox(dragBox(drag.start, drag.part, drag.from, to, options), model.size);
      this.carryMesh(drag, box);
      model.setDraft({ layer, frame: drag.frame, box });
    } else if (drag.kind === "newBox") {
      model.setDraft({ newBox: heldBox(boxBetween(drag.from, to, event.shiftKey), model.size) });
    } else if (drag.kind === "stroke") {
      drag.stroke.add(this.documentPoint(to), sample.timeStamp);
      model.setDraft({ stroke: drag.stroke, color: model.draft?.color ?? "#fff" });
    } else if (drag.kind === "node") {
      this.dragNode(to);
    } else if (drag.kind === "pin") {
      drag.at = this.documentPoint(to);
      this.actions.preview([this.pinGesture()]);
      model.setDraft({});
    } else if (drag.kind === "wholePath") {
      drag.by = [(to[0] - drag.from[0]) / model.size.width, (to[1] - drag.from[1]) / model.size.height];
      const shift = ([x, y]) => [x + drag.by[0], y + drag.by[1]];
      const keys = Object.fromEntries(Object.entries(drag.keys).map(([frame, at]) => [frame, shift(at)]));
      model.setDraft({ layer, lane: drag.lane, keys, points: drag.points.map(shift) });
    }
  }

  dragNode(to) {
    const { drag, model } = this;
    const at = this.documentPoint([
      drag.grip[0] * model.size.width + to[0] - drag.from[0], drag.grip[1] * model.size.height + to[1] - drag.from[1],
    ]);
    drag.at = at;
    const keys = movedKeys(drag.keys, drag.frame, at, drag.isKey ? model.options.falloff : 0);
    const points = this.preview?.paths?.[drag.lane];
    model.setDraft({ layer: model.layerIndex, lane: drag.lane, keys, points });
    this.actions.preview(this.nodeGestures());
  }

  /** While a box is dragged its last mesh goes along; the server's own comes when it is let go. */
  carryMesh(drag, box) {
    const { model } = this;
    const { motion, fit, anchor } = model.layer;
    if (!drag.mesh || !motion) return;
    const { width, height } = model.size;
    const map = chain([1 / width, 0, 0, 1 / height, 0, 0], chain(carry(drag.start, box, { fit, anchor, aspect: motion.aspect }), [width, 0, 0, height, 0, 0]));
    this.carried = { layer: model.layerIndex, frame: drag.frame, mesh: drag.mesh, map };
  }

  pinch() {
    if (this.pointers.size < 2) return;
    const [a, b] = [...this.pointers.values()];
    const middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    const distance = Math.max(Math.hypot(a[0] - b[0], a[1] - b[1]), 1);
    this.pan(middle[0] - this.drag.middle[0], middle[1] - this.drag.middle[1]);
    this.zoom(distance / Math.max(this.drag.distance, 1), middle);
    Object.assign(this.drag, { middle, distance });
  }

  hover(event) {
    const { model } = this;
    const { tool } = model.options;
    let cursor = { hand: "grab", draw: "crosshair", path: "crosshair", box: "crosshair", mask: "crosshair", surface: "crosshair", select: "default" }[tool];
    if (tool === "mask" && this.prompts.hover(toPicture(this.view, this.place(event)), event)) model.setDraft(null);
    if (this.isSpace) cursor = "grab";
    else if (["select", "box"].includes(tool) && model.layer) {
      const at = toPicture(this.view, this.place(event));
      const box = model.box(model.layerIndex, model.frame);
      const part = box && model.exists(model.layerIndex, model.frame) && partAt(box, at, this.reach(event), ROTATION_PX / this.view.scale);
      if (part) cursor = turnedCursor(part, box.turn);
      else if (tool === "select" && !model.layer.boxes) cursor = "crosshair";
    }
    this.overlay.style.cursor = cursor;
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    const { drag } = this;
    if (!drag) return;
    if (drag.kind === "pinch") {
      if (this.pointers.size === 0) this.drag = null;
      return;
    }
    this.drag = null;
    this.finish(drag, event);
  }

  cancel(event) {
    this.pointers.delete(event.pointerId);
    this.abandon();
  }

  /** Let go without a change. True if there was something to let go. */
  abandon() {
    const had = this.drag !== null;
    this.drag = null;
    this.carried = null;
    this.preview = null;
    if (this.model.draft) this.model.setDraft(null);
    return had;
  }

  finish(drag, event) {
    const { model } = this;
    const layer = model.layerIndex;
    if (drag.kind === "box" && drag.hasMoved && model.draft?.box) this.actions.edit([boxGesture(layer, drag.frame, model.draft.box, model.size)]);
    else if (drag.kind === "newBox") this.finishNewBox(drag);
    else if (drag.kind === "prompt" || drag.kind === "paint") this.prompts.finish(drag);
    else if (drag.kind === "surface") this.finishSurface(drag);
    else if (drag.kind === "stroke") this.finishStroke(drag);
    else if (drag.kind === "node" && drag.hasMoved) this.actions.edit(this.nodeGestures(drag));
    else if (drag.kind === "pin" && drag.at) this.actions.edit([this.pinGesture(drag)]);
    else if (drag.kind === "wholePath" && drag.by) {
      this.actions.edit([{ kind: "move_trajectory", layer, trajectory: drag.lane, by: drag.by.map((value) => Math.min(Math.max(value, -3), 3)) }]);
    } else if (drag.kind === "addNode") this.addNode(toPicture(this.view, this.place(event)));
    else this.abandon();
  }

  finishNewBox(drag) {
    const { model } = this;
    const box = model.draft?.newBox;
    if (!drag.hasMoved || !box || box.x1 - box.x0 < 6 || box.y1 - box.y0 < 6) {
      if (!model.layer.boxes) this.actions.say("Drag to draw the box.");
      return void this.abandon();
    }
    model.select({ lane: "boxes", key: null });
    model.setDraft({ layer: model.layerIndex, frame: model.frame, box });
    this.actions.edit([boxGesture(model.layerIndex, model.frame, box, model.size)]);
    if (model.options.tool === "box") model.set({ tool: "select" });
    return undefined;
  }

  finishSurface({ from, reach }) {
    const { model } = this;
    const tie = model.layer.follow;
    if (tie?.points && tie.key_frame !== model.frame) {
      this.actions.say(`Its points lie on frame ${tie.key_frame}; change them there.`);
      model.goTo(tie.key_frame);
      return;
    }
    this.actions.edit([pointGesture(model.layerIndex, tie, { frame: model.frame, at: from, reach, size: model.size })]);
  }

  finishStroke(drag) {
    const { model } = this;
    const { stroke } = drag;
    if (stroke.points.length < 2 || stroke.length < 0.005) {
      this.actions.say("Keep the button down and draw the way the point should go.");
      return void this.abandon();
    }
    const gesture = {
      kind: "draw_stroke", layer: model.layerIndex, points: stroke.points, times_s: stroke.times_s, frames: model.range,
      spacing: model.options.spacing,
    };
    if (model.trajectory) gesture.trajectory = model.lane;
    else Object.assign(gesture, this.newPoint(drag.anchor));
    this.actions.edit([gesture], { newPath: !model.trajectory });
    return undefined;
  }

  /** Which reference point a new path moves: the chosen one if it is free, else a new one under the hand. */
  newPoint(anchor) {
    const { model } = this;
    if (model.point !== null && model.freePoints(model.layerIndex).includes(model.point)) return { point: model.point };
    return anchor ? { anchor } : {};
  }

  addNode(to) {
    const { model } = this;
    const at = this.documentPoint(to);
    const frame = model.frame;
    if (model.trajectory) {
      this.actions.edit([{ kind: "add_node", layer: model.layerIndex, trajectory: model.lane, frame, at }], { key: frame });
    } else {
      const made = { kind: "add_trajectory", layer: model.layerIndex, keys: { [frame]: at }, ...this.newPoint(this.anchorUnder(to)) };
      this.actions.edit([made], { newPath: true, key: frame });
    }
    if (model.options.advance) model.goTo(Math.min(frame + model.options.advance, model.range[1] - 1));
  }

  nodeGestures(drag = this.drag) {
    const { model } = this;
    const base = { layer: model.layerIndex, trajectory: drag.lane, frame: drag.frame, at: drag.at };
    if (!drag.isKey) return [{ kind: "add_node", ...base }];
    return [{ kind: "move_node", ...base, falloff_frames: model.options.falloff }];
  }

  pinGesture(drag = this.drag) {
    return { kind: "pin_point", layer: this.model.layerIndex, point: drag.point, frame: this.model.frame, at: drag.at };
  }

  /** Move what is chosen by whole pixels of the clip. */
  nudge(dx, dy) {
    const { model } = this;
    const { width, height } = model.size;
    if (model.options.tool === "mask" || model.layer?.kind === "remove") return undefined;
    if (model.trajectory) {
      const here = model.path(model.layerIndex, model.lane)[model.frame];
      const at = heldPoint([here[0] + dx / width, here[1] + dy / height]);
      const kind = model.hasKey(model.layerIndex, model.lane, model.frame) ? "move_node" : "add_node";
      const gesture = { kind, layer: model.layerIndex, trajectory: model.lane, frame: model.frame, at };
      if (kind === "move_node") gesture.falloff_frames = 0;
      return void this.actions.edit([gesture]);
    }
    const box = model.layer && model.box(model.layerIndex, model.frame);
    if (!box) return undefined;
    const moved = heldBox({ ...box, x0: box.x0 + dx, x1: box.x1 + dx, y0: box.y0 + dy, y1: box.y1 + dy }, model.size);
    this.carryMesh({ start: box, mesh: this.meshes.find(model.layerIndex, model.frame), frame: model.frame }, moved);
    model.setDraft({ layer: model.layerIndex, frame: model.frame, box: moved });
    this.actions.edit([boxGesture(model.layerIndex, model.frame, moved, model.size)]);
    return undefined;
  }
}

export function boxGesture(layer, frame, box, size) {
  return { kind: "set_box", layer, frame, box: toDocument(box, size), rotation_deg: box.turn };
}

/** The cursor for a part of a turned box: resize arrows turn with it, in steps of 45°. */
function turnedCursor(part, turn) {
  if (part === "move" || part === "rotate") return CURSORS[part];
  const order = ["n", "ne", "e", "se", "s", "sw", "w", "nw"];
  const steps = (((Math.round(turn / 45) % 8) + 8) % 8 + order.indexOf(part)) % 8;
  return CURSORS[order[steps]];
}
