// The controls of the masks: a strip below the tools while a thing is being picked, and a section of the panel. Texts from a document
// are set with textContent alone.

import { icon } from "./icons.js";
import { EDITED, EMPTY, MADE, STALE, UNSURE, cssColor, laneOfMask, maskColor, maskTitle } from "./masks.js";
import { nextBrush } from "./prompts.js";

const PICKS = [["add", "pickAdd", "This"], ["take", "pickTake", "Not this"], ["brush", "brush", "Brush"], ["erase", "eraser", "Eraser"]];

/** What a target is marked for, by the kind of layer that has one. */
const TARGETS = { replace: "What is replaced", remove: "What is removed" };

const STRIP = `
<label class="cv-select" title="What is being marked"><select data-mask-slot aria-label="What is being marked"></select></label>
<div class="cv-group" role="radiogroup" aria-label="What a click means">${PICKS.map(
    ([value, name, label]) => `<button type="button" class="cv-text cv-pick" role="radio" data-pick="${value}" aria-checked="false">${icon(name)}<span>${label}</span></button>`,
  ).join("")}</div>
<label class="cv-slider cv-brush" title="Size of the brush ([ and ])"><input type="range" data-brush min="2" max="300" step="1" aria-label="Size of the brush"><output></output></label>
<span class="cv-space"></span>
<div class="cv-group cv-track">
  <button type="button" class="cv-text" data-track="backward" title="Follow the thing back to the start">${icon("trackBack")}<span>Back</span></button>
  <button type="button" class="cv-text" data-track="both" title="Follow the thing through the whole range">${icon("trackBoth")}<span>Track</span></button>
  <button type="button" class="cv-text" data-track="forward" title="Follow the thing on to the end"><span>Forward</span>${icon("trackForward")}</button>
</div>
<div class="cv-group cv-tracking" hidden><progress max="1" value="0"></progress><output></output><button type="button" class="cv-text" data-track-stop>Stop</button></div>`;

const SECTION = `
<h3><span class="cv-swatch"></span><span data-title></span> <em data-where></em></h3>
<p class="cv-note" data-state></p>
<p class="cv-note" data-told role="status"></p>
<div data-has>
  <div class="cv-line"><span>Grow</span><label class="cv-slider"><input type="range" data-mask="grow_px" min="-30" max="30" step="1" aria-label="Grow or shrink the mask"><output></output></label></div>
  <div class="cv-line"><span>Soften</span><label class="cv-slider"><input type="range" data-mask="feather_px" min="0" max="20" step="0.5" aria-label="Soften the edge"><output></output></label></div>
  <div class="cv-line"><span>Mend</span><div class="cv-choice" role="radiogroup" aria-label="Which frames are mended">
    <button type="button" role="radio" data-scope="frame" aria-checked="true">This frame</button><button type="button" role="radio" data-scope="all" aria-checked="false">All frames</button></div></div>
  <div class="cv-row"><button type="button" class="cv-text" data-refine="fill_holes">Fill holes</button><button type="button" class="cv-text" data-refine="remove_specks">Remove specks</button></div>
  <div class="cv-row"><button type="button" class="cv-text" data-clear>Clear this frame</button><button type="button" class="cv-text" data-delete>Delete mask</button></div>
  <div class="cv-row"><button type="button" class="cv-text" data-save>Save mask</button>
  <label class="cv-select"><select data-format aria-label="Format"><option value="mkv">.mkv, exact</option><option value="mp4">.mp4</option><option value="png">PNGs in a .zip</option></select></label></div>
</div>
<div class="cv-row"><label class="cv-text cv-file"><input type="file" accept=".png,.jpg,.jpeg,.webp,.mp4,.mkv,.mov,.m4v,.webm,.avi"><span>Import a mask</span></label></div>
<p class="cv-note" data-segmenter></p>`;

export class MaskKit {
  /** strip and side are the elements to fill; actions: {edit, say}; send(path, body, headers) fetches from the server. */
  constructor({ strip, side, model, masks, actions, fetchFile }) {
    Object.assign(this, { strip, side, model, masks, actions, fetchFile });
    this.section = document.createElement("section");
    this.section.dataset.part = "mask";
    this.scope = "frame";
    strip.innerHTML = STRIP;
    this.section.innerHTML = SECTION;
    side.prepend(this.section);
    this.listen();
  }

  find(selector) {
    return this.strip.querySelector(selector) ?? this.section.querySelector(selector);
  }

  listen() {
    for (const root of [this.strip, this.section]) {
      root.addEventListener("click", (event) => this.clicked(event.target.closest("button")));
      root.addEventListener("change", (event) => this.changed(event.target));
      root.addEventListener("input", (event) => this.moved(event.target));
    }
  }

  clicked(button) {
    if (!button || button.disabled) return;
    const { dataset } = button;
    const { model } = this;
    const target = { layer: model.layerIndex, mask: model.maskName };
    if (dataset.pick) model.set({ pick: dataset.pick });
    else if (dataset.track) this.masks.track(model.maskName, dataset.track);
    else if ("trackStop" in dataset) this.masks.stop();
    else if (dataset.scope) this.setScope(dataset.scope);
    else if (dataset.refine) this.actions.edit([{ kind: "refine_mask", ...target, frames: this.frames(), how: dataset.refine }]);
    else if ("clear" in dataset) this.actions.edit([{ kind: "delete_prompt", ...target, frame: model.frame }]);
    else if ("delete" in dataset) this.actions.edit([{ kind: "delete_mask", ...target }]);
    else if ("save" in dataset) this.save(button);
  }

  setScope(scope) {
    this.scope = scope;
    this.show();
  }

  frames() {
    const { model } = this;
    return this.scope === "all" ? [...model.range] : [model.frame, model.frame + 1];
  }

  changed(input) {
    const { model } = this;
    if (input.matches("select")) input.blur(); // the keys are the canvas's again
    if ("maskSlot" in input.dataset) this.chooseSlot(input.value);
    else if (input.dataset.mask) {
      this.actions.edit([{ kind: "set_mask", layer: model.layerIndex, mask: model.maskName, [input.dataset.mask]: Number(input.value) }]);
    } else if (input.type === "file") this.take(input);
  }

  /** A mask to mark; marking what another kind of layer would mark makes the layer one of that kind. */
  chooseSlot(value) {
    const { model } = this;
    if (value in TARGETS && value !== model.layer.kind) this.actions.edit([{ kind: "set_layer", layer: model.layerIndex, layer_kind: value }]);
    else model.select({ lane: laneOfMask(value in TARGETS ? "target" : Number(value)) });
  }

  moved(input) {
    if ("brush" in input.dataset) this.model.set({ brush: Number(input.value) });
    else if (input.dataset.mask) input.parentElement.querySelector("output").textContent = pixels(input.value);
  }

  resize(step) {
    this.model.set({ brush: nextBrush(this.model.options.brush, step) });
  }

  // -- files ----------------------------------------------------------------------------------------------------------------------

  async save(button) {
    const { model } = this;
    button.disabled = true;
    try {
      const wish = { layer: model.layerIndex, mask: model.maskName, format: this.find("[data-format]").value };
      const answer = await this.fetchFile("masks/export", JSON.stringify({ token: this.masks.token, ...wish }), { "Content-Type": "application/json" });
      if ((answer.headers.get("Content-Type") ?? "").startsWith("application/json")) return void this.actions.say((await answer.json()).fault);
      const name = /filename="?([^";]+)/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? "mask";
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(await answer.blob()), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    } catch {
      this.actions.say("The mask could not be fetched; check the connection and try again.");
    } finally {
      button.disabled = false;
    }
    return undefined;
  }

  async take(input) {
    const [file] = input.files;
    if (!file) return;
    const { model } = this;
    const target = { layer: model.layerIndex, mask: model.maskName };
    try {
      const headers = { "X-Visitor": this.masks.token, "X-File-Name": encodeURIComponent(file.name) };
      const answer = await (await this.fetchFile("masks/import", file, headers)).json();
      if (answer.fault) this.actions.say(answer.fault);
      else this.actions.edit([{ kind: "set_mask_file", ...target, path: answer.path }]);
    } catch {
      this.actions.say("The mask could not be sent; check the connection and try again.");
    } finally {
      input.value = "";
    }
  }

  // -- showing --------------------------------------------------------------------------------------------------------------------

  show() {
    const { model, strip, section } = this;
    const isOn = Boolean(model.clip && model.layer) && model.options.tool === "mask";
    if (isOn && strip.hidden) this.side.scrollTop = 0;
    strip.hidden = !isOn;
    section.hidden = !isOn;
    this.side.classList.toggle("cv-is-picking", isOn);
    if (!isOn) return;
    this.showSlots();
    this.showStrip();
    this.showSection();
  }

  showSlots() {
    const { model } = this;
    const select = this.find("[data-mask-slot]");
    const holdouts = model.layer.masks.holdouts.length;
    const names = [...Object.keys(TARGETS), ...Array.from({ length: holdouts + 1 }, (_, index) => index)];
    const texts = names.map((name) => TARGETS[name] ?? (name === holdouts ? (holdouts ? "Another thing in front" : "What stays in front") : maskTitle(name)));
    const state = JSON.stringify(texts);
    if (select.dataset.state !== state) {
      select.dataset.state = state;
      select.replaceChildren(...names.map((name, index) => new Option(texts[index], String(name))));
    }
    const value = model.maskName === "target" ? model.layer.kind : String(model.maskName);
    if (select.value !== value) select.value = value;
  }

  showStrip() {
    const { model, masks } = this;
    for (const each of this.strip.querySelectorAll("[data-pick]")) each.setAttribute("aria-checked", String(each.dataset.pick === model.options.pick));
    const brush = this.strip.querySelector(".cv-brush");
    brush.hidden = !["brush", "erase"].includes(model.options.pick);
    if (brush.querySelector("input").value !== String(model.options.brush)) brush.querySelector("input").value = String(model.options.brush);
    put(brush.querySelector("output"), `${model.options.brush} px`);
    const { isTracking, job } = masks;
    toggle(this.strip.querySelector(".cv-track"), !isTracking);
    toggle(this.strip.querySelector(".cv-tracking"), isTracking);
    const canTrack = Object.keys(model.mask?.prompts ?? {}).length > 0 && masks.segmenter !== null;
    for (const each of this.strip.querySelectorAll("[data-track]")) each.disabled = !canTrack;
    if (!isTracking) return;
    this.strip.querySelector("[data-track-stop]").disabled = job.state === "stopping";
    this.strip.querySelector("progress").value = job.total ? job.made / job.total : 0;
    put(this.strip.querySelector(".cv-tracking output"), { waiting: "Waiting for its turn…", stopping: "Stopping…" }[job.state] ?? `${job.made} of ${job.total} frames`);
  }

  showSection() {
    const { model, section } = this;
    const name = model.maskName;
    const { mask } = model;
    section.querySelector(".cv-swatch").style.background = cssColor(maskColor(name));
    put(section.querySelector("[data-title]"), maskTitle(name));
    put(section.querySelector("[data-where]"), `frame ${model.frame}`);
    put(section.querySelector("[data-state]"), this.describe(mask));
    put(section.querySelector("[data-told]"), this.masks.outcome(model.layerIndex, name));
    toggle(section.querySelector("[data-has]"), Boolean(mask));
    put(section.querySelector("[data-segmenter]"), this.masks.segmenter ?? (this.masks.segmenter === null ? "This server makes no masks from clicks; paint the mask, or import one." : ""));
    if (!mask) return;
    for (const input of section.querySelectorAll("[data-mask]")) {
      const value = String(mask[input.dataset.mask]);
      if (document.activeElement !== input && input.value !== value) input.value = value;
      put(input.parentElement.querySelector("output"), pixels(input.value));
    }
    for (const each of section.querySelectorAll("[data-scope]")) each.setAttribute("aria-checked", String(each.dataset.scope === this.scope));
    section.querySelector("[data-clear]").disabled = !model.hasKey(model.layerIndex, model.maskLane, model.frame);
    const flags = this.masks.flags(model.layerIndex, name);
    const isMade = this.scope === "all" ? Boolean(flags?.some((each) => each & MADE)) : Boolean(flags?.[model.frame] & MADE);
    for (const each of section.querySelectorAll("[data-refine]")) each.disabled = !isMade;
    section.querySelector("[data-save]").disabled = !flags?.some((each) => each & MADE);
  }

  /** What is known about the mask at this frame, in one sentence or two. */
  describe(mask) {
    const { model } = this;
    if (!mask) return model.maskName === "target" ? `Click on the thing to ${model.layer.kind}, or drag a box around it.` : "Click on the thing that stays in front, or drag a box around it.";
    if (mask.path) return `From the file ${mask.path}.`;
    if (this.masks.isFinding) return "Finding it…";
    const flags = this.masks.flags(model.layerIndex, model.maskName)?.[model.frame] ?? 0;
    if (flags & EDITED) return "Painted by hand at this frame.";
    if (flags & STALE) return "Made from earlier clicks; track again to bring it up to date.";
    if (flags & EMPTY) return "Nothing of it is found at this frame; where it is to be seen, click on it.";
    if (flags & UNSURE) return "Not sure of this frame; click on the thing here if it is wrong.";
    if (flags & MADE) return mask.prompts[model.frame] ? "A click on a mark takes it away." : "Tracked to this frame; click to correct it here.";
    return Object.keys(mask.prompts).length ? "No mask at this frame yet; track the thing, or click on it here." : "No mask at this frame.";
  }
}

const pixels = (value) => `${Number(value) > 0 ? "+" : ""}${Number(value)} px`;

function toggle(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
