// The reference part of the panel: the pictures of the chosen layer, their cut-outs on a checkerboard, corrected by brush and clicks, and
// the points that paths move.

import { fitCanvas } from "./animatic.js";
import { BRUSH_SIZES, clickGesture, describeWay, documentSpot, firstImage, strokeGesture } from "./cutout.js";
import { icon } from "./icons.js";
import { nearestIndex } from "./paths.js";
import { linesBetween, PRESETS, readableName } from "./presets.js";
import { actionFor } from "./shortcuts.js";
import { fitView, holdOnStage, zoomAt } from "./view.js";

const TOOLS = [
  ["points", "point", "Points: click to place, drag to move"],
  ["belongs", "belongs", "Click what belongs to the object (right click: what does not)"],
  ["without", "without", "Click what does not belong to the object"],
  ["brush", "brush", "Paint what belongs to the object"],
  ["eraser", "eraser", "Rub out what does not belong to the object"],
];

const HINTS = {
  belongs: "Click what is missing from the object. Right click takes away; a click on a dot takes it back.",
  without: "Click what does not belong to the object; a click on a dot takes it back.",
  brush: "Paint roughly: the edge is found by itself.",
  eraser: "Rub out roughly: the edge is found by itself.",
};

const small = (attributes, name, label) => `<button type="button" class="cv-button cv-small" ${attributes} title="${label}" aria-label="${label.split(" (")[0].split(":")[0]}">${icon(name)}</button>`;
const text = (attributes, label, title = label) => `<button type="button" class="cv-text" ${attributes} title="${title}">${label}</button>`;

export const REFERENCE = `
<section data-part="reference">
  <div class="cv-ref">
    <h3>Reference <em data-ref-where></em><span class="cv-space"></span><span class="cv-group" data-has="picture">${small('data-ref="out"', "minus", "Zoom out")}${small('data-ref="in"', "plus", "Zoom in (wheel; drag with Alt or the middle button)")}${small('data-ref="large"', "fit", "Larger")}</span></h3>
    <div class="cv-thumbs" role="group" aria-label="Pictures"></div>
    <div class="cv-picture" data-has="picture"><canvas tabindex="0" role="application" aria-label="The picture; click to place a point"></canvas>
      <span class="cv-ref-busy" role="status" hidden>Cutting out…</span></div>
    <button type="button" class="cv-drop" data-ref="replace" data-has="nothing">Drop or paste a picture of the thing (Ctrl+V), or click to choose one</button>
    <div class="cv-ref-tools" data-has="picture" role="toolbar" aria-label="Cut-out">
      <div class="cv-group">${TOOLS.map(([name, shape, label]) => `<button type="button" class="cv-button cv-small" data-ref-tool="${name}" aria-pressed="false" title="${label}" aria-label="${label.split(":")[0]}">${icon(shape)}</button>`).join("")}</div>
    </div>
    <label class="cv-slider" data-has="brush"><span>Size</span><input type="range" data-ref-size min="${BRUSH_SIZES[0]}" max="${BRUSH_SIZES[1]}" step="1" aria-label="Size of the brush"><output></output></label>
    <p class="cv-note" data-ref-note aria-live="polite"></p>
    <div class="cv-row" data-has="points">${text('data-do="suggest"', "Suggest points")}
      <label class="cv-field cv-short"><input type="number" data-option="suggest" min="1" max="16" step="1" aria-label="How many points"></label>
      ${text('data-do="deletePoint"', "Delete", "Delete the chosen point")}
      ${PRESETS.map(([value, label]) => text(`data-ref-preset="${value}"`, label, "Suggest these points; then drag them to their places")).join("")}</div>
    <div class="cv-row" data-has="cut">${text('data-ref="whole"', "Whole picture", "The whole picture is the object: a poster, a screen, a label")}${text('data-ref="auto"', "Automatic", "Forget brush and clicks")}${text('data-ref="mask"', "Mask file…", "An image, white where the object is")}</div>
    <div class="cv-row" data-has="picture">${text('data-ref="replace"', "Replace…")}${text('data-ref="first"', "Make first", "The first picture is the one that the compositor shows")}${text('data-ref="remove"', "Remove")}</div>
    <input type="file" accept="image/png,image/jpeg,image/webp" hidden>
  </div>
</section>`;

export const LARGE = '<dialog class="cv-large" aria-label="Reference"></dialog>';

export class ReferencePanel {
  /** `pictures` are bitmaps by key; actions.sendImage(file, role, reference) brings a file, actions.edit(gestures, note) changes. */
  constructor(part, dialog, model, { actions, pictures }) {
    Object.assign(this, { part, dialog, model, actions, pictures });
    this.body = part.querySelector(".cv-ref");
    this.picture = this.body.querySelector(".cv-picture canvas");
    this.file = this.body.querySelector('input[type="file"]');
    this.chosen = {};
    this.tool = "points";
    this.brush = 24;
    this.drag = null;
    this.stroke = null;
    this.pointers = new Map();
    this.views = new Map();
    this.last = null;
    this.listen();
  }

  /** Which picture of the chosen layer is shown. */
  get index() {
    const count = this.references.length;
    return Math.min(this.chosen[this.model.layerIndex] ?? 0, Math.max(count - 1, 0));
  }

  get references() {
    return this.model.layer?.references ?? [];
  }

  get reference() {
    return this.references[this.index] ?? null;
  }

  get view() {
    return this.views.get(this.reference?.picture ?? this.reference?.key) ?? this.fit;
  }

  set view(view) {
    this.views.set(this.reference.picture ?? this.reference.key, view);
  }

  choose(index) {
    this.chosen[this.model.layerIndex] = index;
    this.show();
  }

  // -- showing --------------------------------------------------------------------------------------------------------------------

  show() {
    const { body, model, reference } = this;
    if (this.part.hidden && !this.dialog.open) return;
    if (reference && !reference.key && this.tool === "points") this.tool = "belongs"; // there is nothing yet to place points on
    const { tool } = this;
    const isCut = Boolean(reference?.key);
    const paints = tool === "brush" || tool === "eraser";
    const shown = { picture: Boolean(reference), nothing: !reference, brush: Boolean(reference) && paints, points: isCut && tool === "points", cut: Boolean(reference) };
    for (const each of body.querySelectorAll("[data-has]")) toggle(each, shown[each.dataset.has]);
    for (const each of body.querySelectorAll("[data-ref-tool]")) each.setAttribute("aria-pressed", String(each.dataset.refTool === tool));
    put(body.querySelector("[data-ref-where]"), this.references.length > 1 ? `${this.index + 1} of ${this.references.length}` : "");
    this.showThumbs();
    const note = body.querySelector("[data-ref-note]");
    put(note, reference ? this.note() : "");
    note.classList.toggle("cv-fault", Boolean(reference?.fault));
    if (!reference) return;
    const size = body.querySelector("[data-ref-size]");
    size.value = String(this.brush);
    put(size.parentElement.querySelector("output"), `${this.brush} px`);
    const suggest = body.querySelector('[data-option="suggest"]');
    if (document.activeElement !== suggest) suggest.value = String(model.options.suggest);
    body.querySelector('[data-do="deletePoint"]').disabled = model.point === null || this.index > 0;
    body.querySelector('[data-ref="auto"]').disabled = reference.way === "auto";
    toggle(body.querySelector('[data-ref="first"]'), this.index > 0);
    this.paint();
  }

  note() {
    const { model, reference, tool } = this;
    if (reference.fault) return reference.fault;
    if (tool !== "points") return HINTS[tool];
    if (this.index === 0 && model.point !== null) return `Point “${readableName(model.point)}” is chosen.`;
    const how = describeWay(reference, this.index === 0);
    return Object.keys(reference.points).length ? `${how} Click to place a point, drag one on the frame to bend the object.` : `${how} Points let paths bend it: click the picture, or have some suggested.`;
  }

  showThumbs() {
    const thumbs = this.body.querySelector(".cv-thumbs");
    const state = JSON.stringify([this.index, this.model.layerIndex, this.references.map((each) => [each.key ?? each.picture, this.pictures.has(each.key ?? each.picture)])]);
    if (state === this.thumbState) return;
    this.thumbState = state;
    const shown = this.references.length > 1 ? this.references : [];
    thumbs.replaceChildren(...shown.map((each, index) => this.thumb(each, index)));
    if (this.references.length) {
      const add = document.createElement("button");
      Object.assign(add, { type: "button", className: "cv-thumb cv-thumb-add", title: "Add another picture of the same thing", innerHTML: `${icon("plus")}<span>Another picture</span>` });
      add.dataset.ref = "add";
      thumbs.append(add);
    }
  }

  thumb(reference, index) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "cv-thumb", title: reference.name });
    button.setAttribute("aria-label", `Picture ${index + 1}`);
    button.setAttribute("aria-pressed", String(index === this.index));
    const canvas = document.createElement("canvas");
    fitCanvas(canvas, 40, 40, 2);
    const bitmap = this.pictures.get(reference.key ?? reference.picture);
    if (bitmap) {
      const scale = Math.min(76 / bitmap.width, 76 / bitmap.height);
      canvas.getContext("2d").drawImage(bitmap, 40 - (bitmap.width * scale) / 2, 40 - (bitmap.height * scale) / 2, bitmap.width * scale, bitmap.height * scale);
    }
    button.append(canvas);
    button.addEventListener("click", () => this.choose(index));
    return button;
  }

  /** The room for the picture, and the view that shows all of it. */
  layOut() {
    const { reference } = this;
    const room = this.picture.parentElement.clientWidth;
    const isLarge = this.dialog.open;
    if (!reference || room < 8) return false;
    const most = isLarge ? Math.max(200, window.innerHeight * 0.62) : 240;
    const height = Math.max(Math.min((room * reference.height) / reference.width, most), Math.min(most, 120));
    this.room = { width: room, height };
    this.fit = fitView(this.room, reference, 4);
    return true;
  }

  paint() {
    if (!this.layOut()) return;
    const { picture, reference, room, view } = this;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    picture.style.width = `${room.width}px`;
    picture.style.height = `${room.height}px`;
    fitCanvas(picture, room.width, room.height, ratio);
    const context = picture.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, room.width, room.height);
    const place = [view.x, view.y, reference.width * view.scale, reference.height * view.scale];
    const whole = this.pictures.get(reference.picture);
    if (whole && (this.tool !== "points" || !reference.key)) {
      context.globalAlpha = reference.key ? 0.28 : 1;
      context.drawImage(whole, ...place);
      context.globalAlpha = 1;
    }
    const bitmap = this.cutout();
    if (bitmap) context.drawImage(bitmap, ...place);
    this.paintStroke(context);
    if (this.tool === "belongs" || this.tool === "without") this.paintClicks(context);
    if (this.tool === "points") this.paintPoints(context);
    picture.dataset.way = reference.way;
    picture.dataset.shown = bitmap && bitmap === this.pictures.get(reference.key) ? reference.key : "";
  }

  /** The cut-out; while a new one is on its way, a copy of the one before. */
  cutout() {
    const { reference } = this;
    if (!reference.key) return null;
    const bitmap = this.pictures.get(reference.key);
    if (!bitmap) return this.last?.picture === reference.picture ? this.last.canvas : null;
    if (this.last?.key !== reference.key) {
      const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      this.last = { key: reference.key, picture: reference.picture, canvas };
      if (!this.drag) this.stroke = null;
    }
    return bitmap;
  }

  paintStroke(context) {
    const { stroke } = this;
    if (!stroke) return;
    context.lineWidth = stroke.brush;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = stroke.erase ? "rgba(239, 68, 68, 0.5)" : "rgba(20, 184, 166, 0.5)";
    context.beginPath();
    stroke.places.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (stroke.places.length === 1) context.lineTo(stroke.places[0][0] + 0.01, stroke.places[0][1]);
    context.stroke();
  }

  paintClicks(context) {
    const { reference, view } = this;
    for (const [x, y, foreground] of reference.clicks) {
      dot(context, [x * reference.width * view.scale + view.x, y * reference.height * view.scale + view.y], 6, foreground ? "#14b8a6" : "#ef4444", "#fff", 2);
    }
  }

  paintPoints(context) {
    const { model } = this;
    const places = Object.fromEntries(this.points());
    context.lineWidth = 1.25;
    context.strokeStyle = "rgba(255, 255, 255, 0.85)";
    context.shadowColor = "rgba(0, 0, 0, 0.6)";
    context.shadowBlur = 2;
    for (const [from, to] of linesBetween(places)) {
      context.beginPath();
      context.moveTo(...places[from]);
      context.lineTo(...places[to]);
      context.stroke();
    }
    context.shadowBlur = 0;
    const radius = Object.keys(places).length > 8 ? 4 : 6;
    for (const [name, at] of Object.entries(places)) {
      const isChosen = this.index === 0 && name === model.point;
      const isFree = this.index > 0 || model.freePoints(model.layerIndex).includes(name);
      const color = model.pointColor(model.layerIndex, name);
      dot(context, at, radius + (isChosen ? 2 : 0), isFree ? "rgba(255,255,255,0.7)" : color, isFree ? color : "#fff", isChosen ? 3 : 2);
    }
  }

  /** [name, place on the panel's picture] of every point, as the hand has them now. */
  points() {
    const { reference, view } = this;
    return Object.entries(reference.points).map(([name, spot]) => {
      const [x, y] = this.drag?.name === name && this.drag.spot ? this.drag.spot : spot;
      return [name, [x * reference.width * view.scale + view.x, y * reference.height * view.scale + view.y]];
    });
  }

  // -- hands ----------------------------------------------------------------------------------------------------------------------

  listen() {
    const { body, dialog, picture } = this;
    body.addEventListener("click", (event) => this.pressed(event.target.closest("[data-ref], [data-ref-tool], [data-ref-preset]")));
    body.querySelector("[data-ref-size]").addEventListener("input", (event) => { this.brush = Number(event.target.value); this.show(); });
    this.file.addEventListener("change", () => {
      const file = this.file.files[0];
      this.file.value = "";
      if (file) this.actions.sendImage(file, this.role, this.index);
    });
    for (const name of ["dragenter", "dragover", "dragleave", "drop"]) this.part.addEventListener(name, (event) => this.dragged(event));
    picture.addEventListener("pointerdown", (event) => this.down(event));
    picture.addEventListener("pointermove", (event) => this.move(event));
    picture.addEventListener("pointerup", (event) => this.up(event));
    picture.addEventListener("pointercancel", (event) => { this.pointers.delete(event.pointerId); this.letGo(); });
    picture.addEventListener("contextmenu", (event) => event.preventDefault());
    picture.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
    dialog.addEventListener("close", () => { this.part.append(body); this.show(); });
    dialog.addEventListener("keydown", (event) => this.keyInDialog(event));
  }

  /** Undo and redo work in the large view too; the page's other keys rest there. */
  keyInDialog(event) {
    const action = actionFor(event);
    if (!["undo", "redo"].includes(action) || event.target.matches("input[type=number]")) return;
    event.preventDefault();
    this.actions.edit([{ kind: action }]);
  }

  pressed(button) {
    if (!button || button.disabled) return undefined;
    if (button.dataset.refTool) {
      this.tool = button.dataset.refTool;
      return void this.show();
    }
    const base = { layer: this.model.layerIndex, reference: this.index };
    if (button.dataset.refPreset) return void this.edit({ kind: "suggest_points", ...base, preset: button.dataset.refPreset });
    const acts = {
      large: () => this.enlarge(),
      in: () => this.zoom(1.4), out: () => this.zoom(1 / 1.4),
      whole: () => this.edit({ kind: "take_whole_reference", ...base }),
      auto: () => this.edit({ kind: "clear_reference_mask", ...base }),
      first: () => { this.edit({ kind: "move_reference", ...base, to: 0 }); this.chosen[base.layer] = 0; },
      remove: () => this.edit({ kind: "delete_reference", ...base }),
      mask: () => this.pickFile("mask"), replace: () => this.pickFile("replace"), add: () => this.pickFile("add"),
    };
    acts[button.dataset.ref]?.();
    return undefined;
  }

  pickFile(role) {
    this.role = role;
    this.file.click();
  }

  edit(gesture) {
    this.isBusy = true;
    clearTimeout(this.busyTimer);
    this.busyTimer = setTimeout(() => toggle(this.body.querySelector(".cv-ref-busy"), this.isBusy), 250);
    this.actions.edit([gesture], { reference: true });
  }

  /** The server has answered. */
  answered(isRefused) {
    this.isBusy = false;
    toggle(this.body.querySelector(".cv-ref-busy"), false);
    if (isRefused) this.stroke = null;
  }

  enlarge() {
    if (this.dialog.open) return void this.dialog.close();
    this.dialog.append(this.body);
    this.dialog.showModal();
    return void this.show();
  }

  dragged(event) {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    this.part.classList.toggle("cv-is-over", event.type === "dragenter" || event.type === "dragover");
    if (event.type !== "drop") return;
    event.stopPropagation();
    const file = firstImage(event.dataTransfer.files);
    if (file) this.actions.sendImage(file, "replace", this.index);
    else this.actions.say("Drop a picture: a PNG, JPEG or WEBP file.");
  }

  place(event) {
    const bounds = this.picture.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  }

  wheeled(event) {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY * 0.002), this.place(event));
  }

  zoom(factor, at = [this.room.width / 2, this.room.height / 2]) {
    this.view = holdOnStage(zoomAt(this.view, factor, at, this.fit.scale), this.room, this.reference, 24);
    this.stroke = null;
    this.paint();
  }

  down(event) {
    if (!this.reference || !this.room) return undefined;
    this.picture.focus({ preventScroll: true });
    this.picture.setPointerCapture?.(event.pointerId);
    const at = this.place(event);
    this.pointers.set(event.pointerId, at);
    if (this.pointers.size === 2) {
      this.stroke = null;
      this.drag = { kind: "pinch", places: [...this.pointers.values()] };
      return undefined;
    }
    if (event.button === 1 || (event.button === 0 && event.altKey)) this.drag = { kind: "pan", last: at };
    else if (this.tool === "points") this.downOnPoints(event, at);
    else if (this.tool === "brush" || this.tool === "eraser") {
      const erase = (this.tool === "eraser") !== (event.button === 2);
      this.stroke = { places: [at], brush: this.brush, erase };
      this.drag = { kind: "stroke" };
      this.paint();
    } else this.drag = { kind: "click", at, foreground: (this.tool === "belongs") !== (event.button === 2) };
    return undefined;
  }

  downOnPoints(event, at) {
    const { model } = this;
    if (event.button !== 0 || !this.reference.key) return;
    const points = this.points();
    const found = nearestIndex(points.map(([, place]) => place), at, event.pointerType === "touch" ? 20 : 11);
    if (found < 0) {
      this.drag = { kind: "place", at };
      return;
    }
    const [name] = points[found];
    const lane = model.layer.trajectories.findIndex((each) => each.point === name);
    if (this.index === 0) model.select({ lane: lane < 0 ? "boxes" : lane, point: name });
    this.drag = { kind: "point", name, began: at, spot: null };
  }

  move(event) {
    const { drag } = this;
    const at = this.place(event);
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, at);
    if (!drag) return;
    if (drag.kind === "pinch") this.pinch();
    else if (drag.kind === "pan") {
      this.view = holdOnStage({ ...this.view, x: this.view.x + at[0] - drag.last[0], y: this.view.y + at[1] - drag.last[1] }, this.room, this.reference, 24);
      drag.last = at;
    } else if (drag.kind === "stroke") this.stroke.places.push(at);
    else if (drag.kind === "point" && (drag.spot || Math.hypot(at[0] - drag.began[0], at[1] - drag.began[1]) >= 3)) drag.spot = documentSpot(this.view, this.reference, at);
    else return;
    this.paint();
  }

  /** Two fingers move and zoom the picture. */
  pinch() {
    const { drag, room, reference } = this;
    const [a, b] = [...this.pointers.values()];
    if (!b) return;
    const [c, d] = drag.places;
    const middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    const before = [(c[0] + d[0]) / 2, (c[1] + d[1]) / 2];
    const factor = Math.hypot(a[0] - b[0], a[1] - b[1]) / Math.max(Math.hypot(c[0] - d[0], c[1] - d[1]), 1);
    const moved = { ...this.view, x: this.view.x + middle[0] - before[0], y: this.view.y + middle[1] - before[1] };
    this.view = holdOnStage(zoomAt(moved, factor, middle, this.fit.scale), room, reference, 24);
    drag.places = [a, b];
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    const { drag, model, reference, view } = this;
    if (!drag || (drag.kind === "pinch" && this.pointers.size)) return;
    this.drag = null;
    const base = { layer: model.layerIndex, reference: this.index };
    const at = this.place(event);
    if (drag.kind === "stroke") this.edit(strokeGesture({ ...base, ...this.stroke, view, size: reference }));
    if (drag.kind === "click") this.edit(clickGesture({ ...base, clicks: reference.clicks, at, foreground: drag.foreground, view, size: reference, reach: event.pointerType === "touch" ? 18 : 9 }));
    if (drag.kind === "place") this.actions.edit([{ kind: "place_reference_point", ...base, at: documentSpot(view, reference, drag.at) }], { newPoint: this.index === 0 });
    if (drag.kind === "point" && drag.spot) this.actions.edit([{ kind: "place_reference_point", ...base, point: drag.name, at: drag.spot }]);
  }

  letGo() {
    this.drag = null;
    this.stroke = null;
    this.paint();
  }
}

function dot(context, at, radius, fill, line, width) {
  context.beginPath();
  context.arc(at[0], at[1], radius, 0, 2 * Math.PI);
  Object.assign(context, { fillStyle: fill, strokeStyle: line, lineWidth: width, shadowColor: "rgba(0,0,0,0.5)", shadowBlur: 3 });
  context.fill();
  context.stroke();
  context.shadowBlur = 0;
}

function toggle(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

function put(element, words) {
  if (element.textContent !== words) element.textContent = words;
}
