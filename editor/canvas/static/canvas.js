// Puts the canvas together: the model in the middle, stage, timeline and panel around it, the line to the server below.

import { clock } from "./timescale.js";
import { FrameCache, ThumbCache } from "./frames.js";
import { icon } from "./icons.js";
import { Link, postJson } from "./link.js";
import { HELP, MARKUP } from "./markup.js";
import { MaskKit } from "./mask_kit.js";
import { cssColor, maskColor, maskOfLane, MaskStore, maskTitle } from "./masks.js";
import { MeshStore, RUN } from "./meshes.js";
import { Model } from "./model.js";
import { firstImage } from "./cutout.js";
import { Hover } from "./hover.js";
import { Panel } from "./panel.js";
import { nextKey } from "./paths.js";
import { Player } from "./player.js";
import { actionFor, isTaken } from "./shortcuts.js";
import { boxGesture, Stage } from "./stage.js";
import { ROW, RULER, STRIP, Timeline } from "./timeline.js";

/** Bring a canvas to life in `element`. props.value is {token, stamp, frame}; announce(state) is called after every edit
 *  made here, and when another layer is chosen. */
export async function mount({ element, base, version, props, watch, announce }) {
  await addStyle(`${base}static/${version}/canvas.css`);
  const canvas = new Canvas(element, base, announce);
  const open = () => props.value?.token && canvas.open(props.value.token, props.value.frame ?? null);
  watch("value", open);
  open();
  element.canvas = canvas;
  return canvas;
}

/** Resolves once the style sheet is there, or cannot be had: sizes and colours are read from it. */
function addStyle(href) {
  if ([...document.styleSheets].some((sheet) => sheet.href === href)) return Promise.resolve();
  const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href });
  const isThere = new Promise((done) => { link.onload = link.onerror = done; });
  document.head.append(link);
  return isThere;
}

/** Decoded frames that are kept: fewer where memory is short. */
const FRAME_BYTES = (navigator.deviceMemory ?? 8) < 4 ? 96 << 20 : 320 << 20;

const HINTS = {
  select: "", box: "Drag to draw a box.", path: "Click where the point should be now.",
  draw: "Draw the way of the point over the range.", mask: "", surface: "Click where it should stick; again to take it back.", hand: "Drag the view; a double click fits it.",
};

class Canvas {
  constructor(element, base, announce) {
    Object.assign(this, { element, base, announce });
    element.innerHTML = MARKUP;
    element.dataset.canvas = "ready";
    this.dirty = new Set();
    this.pictures = new Map();
    this.fetching = new AbortController();
    this.left = null;
    this.frames = null;
    this.clipboard = null;
    this.goal = null;
    this.toldLayer = 0;
    this.model = new Model((what) => this.changed(what));
    this.link = new Link({
      url: `${base}exchange`,
      onAnswer: (answer, note, message) => this.answered(answer, note, message),
      onTrouble: (sentence) => this.troubled(sentence),
    });
    this.meshes = new MeshStore((wishes) => this.link.ask({ meshes: wishes }));
    const actions = this.makeActions();
    this.masks = new MaskStore(this.model, {
      say: (sentence) => this.say(sentence),
      changed: () => this.masksChanged(),
      send: (path, message) => postJson(`${base}${path}`, message),
    });
    const hovering = new Hover(this.masks, { send: (path, message) => postJson(`${base}${path}`, message), changed: () => this.mark("stage") });
    const find = (name) => element.querySelector(`.cv-${name}`);
    this.stage = new Stage(find("stage"), this.model, { actions, meshes: this.meshes, pictures: this.pictures, masks: this.masks, hovering });
    this.timeline = new Timeline(find("timeline"), this.model, actions);
    this.panel = new Panel(find("side"), this.model, { actions, pictures: this.pictures, dialog: find("large"), offer: find("offer") });
    this.timeline.flagsOf = (layer, name) => this.masks.flags(layer, name);
    this.kit = new MaskKit({
      strip: find("kit"), side: find("side"), model: this.model, masks: this.masks, actions,
      fetchFile: (path, body, headers) => fetch(`${base}${path}`, { method: "POST", credentials: "same-origin", body, headers }),
    });
    this.player = new Player(this.model, {
      isReady: (frame) => this.frames?.find(frame) != null && this.isMeshReady(frame),
      want: (frame) => this.wantFrame(frame),
      onEnd: () => this.mark("all"),
    });
    find("help").innerHTML = HELP;
    this.listen();
    this.mark("all");
  }

  makeActions() {
    return {
      edit: (gestures, note) => this.edit(gestures, note),
      ask: () => this.link.ask({}),
      preview: (gestures) => this.preview(gestures),
      pause: () => this.pause(),
      isPlaying: () => this.player.isPlaying,
      say: (sentence) => this.say(sentence),
      sendImage: (file, role, reference) => this.sendImage(file, role, reference),
      scrub: (frame) => this.model.goTo(frame),
      repaint: () => this.mark("timeline"),
      addKey: () => this.addKey(),
      viewChanged: () => this.mark("stage"),
    };
  }

  // -- the server -----------------------------------------------------------------------------------------------------------------

  /** Look at a visitor's work anew, and go to a frame unless it is null. */
  open(token, frame = null) {
    this.goal = frame;
    if (token !== this.link.token) {
      this.stage.abandon();
      this.pause();
      this.masks.reset(token);
    }
    this.link.open(token);
  }

  edit(gestures, note = {}) {
    this.pause();
    this.link.ask({ gestures, meshes: this.currentMeshes() }, note);
  }

  /** What the object would look like if the hand let go now; only the last wish counts. */
  preview(gestures) {
    const { model } = this;
    const meshes = model.layer?.motion ? [{ layer: model.layerIndex, start: model.frame, stop: model.frame + 1 }] : [];
    this.link.ask({ gestures, meshes, dry: true }, { drag: this.stage.drag, frame: model.frame });
  }

  /** The run of meshes around the playhead, so that an edit is seen with its answer. */
  currentMeshes() {
    const { model } = this;
    const start = Math.floor(model.frame / RUN) * RUN;
    const stop = Math.min(start + RUN, model.clip?.num_frames ?? 0);
    return model.layers.flatMap((layer, index) => (index === model.layerIndex && stop > start ? [{ layer: index, start, stop }] : []));
  }

  answered(answer, note, message) {
    if (message.dry) return void this.previewed(answer, note);
    this.model.canUndo = Boolean(answer.can_undo);
    this.model.canRedo = Boolean(answer.can_redo);
    const isEdit = Boolean(message.gestures);
    const isNew = answer.revision !== null && answer.revision !== message.seen;
    if (isEdit && !answer.fault) this.element.querySelector(".cv-toast").hidden = true;
    if (isNew) this.takeScene(answer.scene, note);
    for (const mesh of answer.meshes ?? []) this.meshes.keep(mesh);
    if (note?.reference) this.panel.reference.answered(Boolean(answer.fault));
    if (isEdit && !this.link.pending && !this.stage.drag) this.stage.abandon();
    if (answer.fault) this.stage.prompts.glow = null;
    if (answer.fault && (isEdit || answer.revision === null)) this.say(answer.fault, 30_000);
    if (isEdit && answer.revision) this.announce({ revision: answer.revision });
    this.panel.follow.answered(answer.is_following);
    this.wantMeshes();
    this.mark("all");
    return undefined;
  }

  previewed(answer, note) {
    const { stage, model } = this;
    const mesh = answer.meshes?.[0];
    if (!stage.drag || stage.drag !== note.drag || !mesh) return;
    const kept = new MeshStore(() => {});
    kept.expect(mesh.layer, mesh.digest);
    kept.keep(mesh);
    stage.preview = { layer: mesh.layer, frame: note.frame, mesh: kept.find(mesh.layer, note.frame) };
    if (model.draft) model.setDraft({ ...model.draft });
    this.mark("stage");
  }

  takeScene(scene, note) {
    const { model } = this;
    const faults = model.layers.map((layer) => layer.fault);
    const kindBefore = model.layer && [model.layerIndex, model.layers.length, model.layer.kind];
    const clipKey = model.clip?.key;
    const hadSize = model.clip && `${model.clip.width}x${model.clip.height}`;
    model.takeScene(scene);
    if (this.goal !== null && scene) {
      model.goTo(this.goal);
      this.goal = null;
    }
    if (model.clip?.key !== clipKey) this.openFrames();
    model.layers.forEach((layer, index) => {
      if (layer.motion) this.meshes.expect(index, layer.motion.digest);
      else this.meshes.forget(index);
      for (const key of keysOf(layer)) this.loadPicture(key);
    });
    this.meshes.drop(model.layers.length);
    this.dropPictures();
    const fault = model.layers.find((layer) => layer.fault && !faults.includes(layer.fault))?.fault;
    if (fault) this.say(fault);
    if (note?.newPath && model.layer) model.select({ lane: model.layer.trajectories.length - 1, key: note.key ?? null });
    else if (note?.key !== undefined) model.select({ key: note.key });
    if (note?.newPoint && model.layer?.reference) model.select({ lane: "boxes", point: Object.keys(model.layer.reference.points).pop() });
    if (note?.layer !== undefined) model.select({ layer: Math.min(note.layer, model.layers.length - 1), lane: "boxes" });
    this.followKind(kindBefore);
    this.masks.sceneChanged();
    this.element.style.setProperty("--cv-aspect", String(model.size.width / model.size.height));
    this.layOut();
    if (model.clip && `${model.clip.width}x${model.clip.height}` !== hadSize) this.stage.fit();
  }

  /** A layer that has just become one that replaces or removes wants its target next; one that removes has nothing else. */
  followKind(before) {
    const { model } = this;
    const isSame = before && before[0] === model.layerIndex && before[1] === model.layers.length;
    const hasChanged = isSame && before[2] !== model.layer?.kind;
    if (hasChanged && model.layer.kind !== "insert") {
      model.select({ lane: "mask:target" });
      model.set({ tool: "mask", pick: "add" });
    } else if (hasChanged && model.options.tool === "mask") model.set({ tool: "select" });
  }

  masksChanged() {
    this.stage.prompts.glow = null;
    this.mark("all");
  }

  troubled(sentence) {
    this.stage.abandon();
    this.meshes.retry();
    this.say(sentence);
    this.lookAgain(3000);
    this.mark("all");
  }

  /** Bring an image: a layer's picture ("replace" or "add") or a picture's "mask". */
  async sendImage(file, role, reference) {
    const headers = {
      "X-Visitor": this.link.token ?? "", "X-Layer": this.model.layerIndex, "X-Reference": reference, "X-Role": role,
      "X-Name": encodeURIComponent(file.name || "pasted.png").slice(0, 600), "Content-Type": "application/octet-stream",
    };
    this.say("Taking the picture in…");
    try {
      const answer = await fetch(`${this.base}picture`, { method: "POST", credentials: "same-origin", headers, body: file });
      const { fault } = await answer.json();
      if (fault) return void this.say(fault);
    } catch {
      return void this.say("The picture could not be sent; check the connection and try again.");
    }
    this.element.querySelector(".cv-toast").hidden = true;
    this.link.open(this.link.token);
    this.announce({ picture: role });
    return undefined;
  }

  /** An image goes to the chosen layer; anything else is the key that was copied here. */
  pasted(event) {
    if (!this.element.isConnected || this.element.offsetParent === null) return;
    if (event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, [contenteditable]")) return;
    const file = firstImage(event.clipboardData?.files);
    if (file && this.link.token) {
      event.preventDefault();
      this.sendImage(file, "replace", this.panel.reference.index);
    } else if (this.model.clip && !document.querySelector("dialog[open]")) this.act("pasteKey");
  }

  /** Ask for the scene anew, after a while: a server that was restarted knows the work, but no longer the addresses. */
  lookAgain(delay_ms) {
    this.againTimer ??= setTimeout(() => {
      this.againTimer = null;
      this.link.open(this.link.token);
    }, delay_ms);
  }

  /** The work that is shown is about to go: ask for no picture of it any more, whatever is still said of it. */
  leave() {
    this.left = this.link.token;
    this.closeFrames();
    this.fetching.abort();
    this.fetching = new AbortController();
  }

  get hasLeft() {
    return this.left !== null && this.left === this.link.token;
  }

  /** It does not go after all: look at it anew. */
  stay() {
    this.left = null;
    this.openFrames();
    this.link.open(this.link.token);
  }

  closeFrames() {
    this.pause();
    this.frames?.close();
    this.timeline.thumbs?.close();
  }

  openFrames() {
    const { clip } = this.model;
    this.closeFrames();
    this.frames = null;
    this.timeline.thumbs = null;
    if (clip && !this.hasLeft) {
      const address = `${this.base}view/${clip.key}/`;
      this.frames = new FrameCache({
        numFrames: clip.num_frames,
        maxBytes: FRAME_BYTES,
        onGone: () => this.lookAgain(10_000),
        urlOf: (frame) => `${address}${frame}.jpg`,
        onFrame: (frame) => this.mark(frame === this.model.frame || this.stage.paintedFrame === null ? "stage" : "none"),
      });
      this.timeline.thumbs = new ThumbCache({ urlOf: (frame) => `${address}t${frame}.jpg`, onFrame: () => this.mark("timeline") });
      this.frames.look(this.model.frame);
    }
    this.stage.frames = this.frames;
  }

  async loadPicture(key) {
    if (this.pictures.has(key) || this.hasLeft) return;
    this.pictures.set(key, null);
    try {
      const answer = await fetch(`${this.base}view/${key}.png`, { signal: this.fetching.signal });
      if (!answer.ok) throw new Error(`${answer.status}`);
      this.pictures.set(key, await createImageBitmap(await answer.blob()));
      this.mark("all");
    } catch {
      this.pictures.delete(key);
    }
  }

  dropPictures() {
    const used = new Set(this.model.layers.flatMap(keysOf));
    for (const [key, bitmap] of this.pictures) {
      if (used.has(key) || !bitmap) continue;
      this.stage.painter.forget(bitmap);
      bitmap.close();
      this.pictures.delete(key);
    }
  }

  wantMeshes(frame = this.model.frame) {
    const { model } = this;
    if (!model.clip) return;
    model.layers.forEach((layer, index) => layer.motion && !layer.hidden && this.meshes.want(index, frame, model.clip.num_frames));
  }

  /** Fetch what is shown at a frame. */
  wantFrame(frame) {
    this.frames?.look(frame);
    this.wantMeshes(frame);
  }

  isMeshReady(frame) {
    const { model } = this;
    if (!model.options.showAnimatic) return true;
    return model.layers.every((layer, index) => layer.hidden || !layer.motion || this.meshes.find(index, frame) !== null);
  }

  // -- painting -------------------------------------------------------------------------------------------------------------------

  changed(what) {
    if (what.has("frame")) {
      this.wantFrame(this.model.frame);
      if (this.stage.preview || this.stage.carried) this.dropCarried();
    }
    if (what.has("frame") || what.has("selection") || what.has("options")) this.masks.want();
    if (what.has("selection")) {
      this.layOutTimeline();
      this.tellLayer();
    }
    this.mark(what.has("draft") && what.size === 1 ? "draft" : "all");
  }

  tellLayer() {
    const { layerIndex } = this.model;
    if (layerIndex === this.toldLayer || !this.model.clip) return;
    this.toldLayer = layerIndex;
    this.element.dataset.layer = layerIndex;
    this.announce({ layer: layerIndex });
  }

  dropCarried() {
    if (this.stage.drag) return;
    this.stage.preview = null;
    this.stage.carried = null;
  }

  mark(part) {
    if (part === "none") return;
    if (this.dirty.size === 0) requestAnimationFrame(() => this.paint());
    this.dirty.add(part);
  }

  paint() {
    const { dirty } = this;
    this.dirty = new Set();
    const all = dirty.has("all");
    if (all || dirty.has("stage")) this.stage.paintFrame();
    if (all || dirty.has("stage") || dirty.has("draft")) {
      this.stage.paintAnimatic();
      this.stage.paintOverlay();
    }
    if (all || dirty.has("timeline")) this.timeline.paint();
    if (all || (dirty.has("draft") && !this.stage.drag)) this.panel.show();
    if (all || dirty.has("stage")) this.showBars();
    if (all) this.kit.show();
    this.element.dataset.frame = this.model.frame;
    this.element.dataset.layer = this.model.layerIndex;
    this.painted?.(dirty);
  }

  showBars() {
    const { element, model } = this;
    const { options } = model;
    const find = (selector) => element.querySelector(selector);
    for (const each of element.querySelectorAll("[data-tool]")) each.setAttribute("aria-pressed", String(each.dataset.tool === options.tool));
    const pressed = { lock: options.isLocked, onion: options.showOnion, animatic: options.showAnimatic, loop: options.isLooping };
    for (const [name, value] of Object.entries(pressed)) find(`[data-do="${name}"]`).setAttribute("aria-pressed", String(value));
    find('[data-do="undo"]').disabled = !model.canUndo;
    find('[data-do="redo"]').disabled = !model.canRedo;
    const onMask = maskOfLane(model.lane) !== null;
    find('[data-do="deleteKey"]').disabled = find('[data-do="copyKey"]').disabled = this.keyHere() === null;
    if (onMask) find('[data-do="copyKey"]').disabled = true;
    find('[data-do="pasteKey"]').disabled = !this.canPaste();
    find('[data-do="key"]').disabled = !model.layer || onMask || (model.lane === "boxes" && !model.layer.boxes);
    setIcon(find("[data-play]"), this.player.isPlaying ? "pause" : "play", this.player.isPlaying ? "Pause (Space)" : "Play (Space)");
    if (find("[data-speed]").value !== String(options.speed)) find("[data-speed]").value = String(options.speed);
    put(find("[data-percent]"), model.clip ? `${this.stage.percent}%` : "");
    const last = (model.clip?.num_frames ?? 1) - 1;
    put(find("[data-count]"), model.clip ? `${model.frame} / ${last}` : "");
    put(find("[data-clock]"), model.clip ? clock(model.frame, model.clip.fps) : "");
    element.classList.toggle("cv-is-empty", !model.clip);
    put(find(".cv-hint"), this.hint());
  }

  hint() {
    const { model } = this;
    if (!model.clip || this.player.isPlaying) return "";
    if (model.options.tool === "mask") return this.maskHint();
    if (model.layer?.follow?.state === "tracking" && model.options.tool !== "surface") return "Following: tracking…";
    if (model.layer?.kind === "remove") return "Press S and click on the thing to remove.";
    if (model.options.tool === "select" && model.layer?.kind === "insert" && !model.layer.boxes && !model.layer.trajectories.length) {
      return "Drag to draw a box where the object should be.";
    }
    return HINTS[model.options.tool];
  }

  maskHint() {
    const { model } = this;
    if (!model.layer) return "";
    const isFirst = !Object.keys(model.mask?.prompts ?? {}).length;
    if (model.options.pick === "brush") return "Paint what belongs to the mask.";
    if (model.options.pick === "erase") return "Rub out what does not belong to the mask.";
    if (isFirst) return `Click the thing ${model.maskName === "target" ? `to ${model.layer.kind}` : "that stays in front"}, or drag a box around it.`;
    if (this.masks.isFinding) return "Finding it…";
    return model.options.pick === "take" ? "Click on what does not belong to the thing." : "";
  }

  layOut() {
    this.stage.resize();
    this.layOutTimeline();
  }

  layOutTimeline() {
    if (!this.timeline) return;
    this.timeline.resize();
    this.showHeads();
  }

  /** The names beside the lanes. */
  showHeads() {
    const { model } = this;
    const rows = this.timeline.rows();
    const state = JSON.stringify([
      rows, model.layerIndex, model.lane,
      model.layers.map(({ name, hidden, kind, trajectories, fault }) => [name, hidden, kind, fault, trajectories.map((each) => each.point)]),
    ]);
    if (state === this.headState) return;
    this.headState = state;
    const heads = this.element.querySelector(".cv-heads");
    const hadFocus = heads.contains(document.activeElement) ? document.activeElement.dataset.headKey : null;
    heads.replaceChildren(this.toolsHead(), ...rows.map((row) => this.head(row)));
    if (hadFocus) heads.querySelector(`[data-head-key="${hadFocus}"]`)?.focus({ preventScroll: true });
  }

  toolsHead() {
    const top = make("div", "cv-head-tools");
    top.style.height = `${RULER + STRIP}px`;
    top.append(make("span", "", "Layers"), this.smallButton("plus", "Add a layer", () => this.addLayer(), "add"));
    return top;
  }

  head({ layer, lane }) {
    const { model } = this;
    const found = model.layers[layer];
    const isLayer = lane === "boxes";
    const head = make("div", isLayer ? "cv-head" : "cv-head cv-head-path");
    head.style.height = `${ROW}px`;
    head.classList.toggle("cv-is-chosen", layer === model.layerIndex && lane === model.lane);
    const mask = maskOfLane(lane);
    const swatch = make("span", "cv-swatch");
    swatch.style.background = mask !== null ? cssColor(maskColor(mask)) : isLayer ? model.layerColor(layer) : model.pointColor(layer, found.trajectories[lane].point);
    const name = make("button", "cv-name", mask !== null ? maskTitle(mask) : isLayer ? found.name || "Layer" : found.trajectories[lane].point);
    name.type = "button";
    name.dataset.headKey = `${layer}-${lane}`;
    name.addEventListener("click", () => {
      model.select({ layer, lane, key: null });
      if (mask !== null) this.act("tool:mask");
    });
    head.append(swatch, name);
    if (isLayer && found.fault) head.append(Object.assign(make("span", "cv-warn", "!"), { title: found.fault }));
    if (isLayer) head.append(this.eye(layer, found));
    return head;
  }

  eye(layer, found) {
    const [name, label] = found.hidden ? ["hidden", "Show the layer"] : ["animatic", "Hide the layer"];
    return this.smallButton(name, label, () => this.edit([{ kind: "set_layer", layer, hidden: !found.hidden }]), `eye-${layer}`);
  }

  smallButton(name, label, act, key) {
    const made = make("button", "cv-button cv-small");
    made.type = "button";
    made.title = label;
    made.setAttribute("aria-label", label);
    made.dataset.headKey = key;
    made.innerHTML = icon(name);
    made.addEventListener("click", act);
    return made;
  }

  addLayer() {
    const count = this.model.layers.length;
    this.edit([{ kind: "add_layer", name: `Layer ${count + 1}` }], { layer: count });
  }

  /** A fault is said for longer than a hint; the next edit that succeeds takes it away. */
  say(sentence, time_ms = Math.max(6000, 80 * sentence.length)) {
    const toast = this.element.querySelector(".cv-toast");
    toast.textContent = sentence;
    toast.hidden = false;
    clearTimeout(this.toastTimer);
    this.toastTimer = setTimeout(() => { toast.hidden = true; }, time_ms);
  }

  // -- hands ----------------------------------------------------------------------------------------------------------------------

  listen() {
    const { element } = this;
    element.addEventListener("click", (event) => {
      const pressed = event.target.closest("[data-tool], [data-do]");
      if (!pressed || pressed.disabled) return;
      this.act(pressed.dataset.tool ? `tool:${pressed.dataset.tool}` : pressed.dataset.do);
    });
    element.querySelector("[data-speed]").addEventListener("change", (event) => {
      this.model.set({ speed: Number(event.target.value) });
      if (this.player.isPlaying) this.player.since = null;
    });
    this.onKey = (event) => this.keyDown(event);
    this.onKeyUp = (event) => { if (event.key === " ") this.spaceUp(event); };
    document.addEventListener("keydown", this.onKey);
    document.addEventListener("keyup", this.onKeyUp);
    this.onPaste = (event) => this.pasted(event);
    document.addEventListener("paste", this.onPaste);
    this.sizes = new ResizeObserver(() => { this.layOut(); this.mark("all"); });
    this.sizes.observe(element);
    this.sizes.observe(element.querySelector(".cv-stage"));
    const repaint = () => { this.stage.themeChanged(); this.timeline.themeChanged(); this.mark("all"); };
    this.themes = new MutationObserver(repaint);
    for (const each of [document.documentElement, document.body]) this.themes.observe(each, { attributes: true, attributeFilter: ["class", "data-theme"] });
  }

  keyDown(event) {
    if (!this.element.isConnected) return void this.close();
    if (event.defaultPrevented || isTaken(event, this.element)) return undefined;
    if (this.element.offsetParent === null) return undefined;
    if (event.key === " " && this.model.clip) return void this.spaceDown(event);
    const action = actionFor(event);
    if (action === null || (!this.model.clip && !["undo", "redo"].includes(action))) return undefined;
    event.preventDefault();
    this.act(...(Array.isArray(action) ? action : [action]));
    return undefined;
  }

  /** Space plays when it is tapped, and moves the view while it is held and dragged. */
  spaceDown(event) {
    event.preventDefault();
    if (event.repeat) return;
    this.stage.isSpace = true;
    this.spaceView = this.stage.view;
  }

  spaceUp() {
    if (!this.stage.isSpace) return;
    this.stage.isSpace = false;
    if (this.spaceView === this.stage.view) this.act("play");
  }

  act(name, ...values) {
    const { model, stage } = this;
    if (name.startsWith("tool:")) return void this.takeTool(name.slice(5));
    const toggles = { lock: "isLocked", onion: "showOnion", animatic: "showAnimatic", loop: "isLooping" };
    if (name in toggles) return void model.set({ [toggles[name]]: !model.options[toggles[name]] });
    const acts = {
      undo: () => this.edit([{ kind: "undo" }]),
      redo: () => this.edit([{ kind: "redo" }]),
      play: () => this.playPause(),
      step: (frames) => this.step(frames),
      first: () => this.step(model.range[0] - model.frame),
      last: () => this.step(model.range[1] - 1 - model.frame),
      prevKey: () => this.toKey(-1),
      nextKey: () => this.toKey(1),
      togglePick: () => model.options.tool === "mask" && model.set({ pick: { add: "take", take: "add", brush: "erase", erase: "brush" }[model.options.pick] }),
      smaller: () => this.kit.resize(-1),
      larger: () => this.kit.resize(1),
      key: () => this.addKey(),
      deleteKey: () => this.deleteKey(),
      copyKey: () => this.copyKey(),
      pasteKey: () => this.pasteKey(),
      nudge: (dx, dy) => stage.nudge(dx, dy),
      markIn: () => this.markRange(0),
      markOut: () => this.markRange(1),
      zoomIn: () => stage.zoom(1.25),
      zoomOut: () => stage.zoom(0.8),
      fit: () => stage.fit(),
      help: () => this.element.querySelector(".cv-help").showModal(),
      letGo: () => this.letGo(),
      newPath: () => this.newPath(),
      suggest: () => this.edit([{ kind: "suggest_points", layer: model.layerIndex, reference: this.panel.reference.index, count: model.options.suggest }]),
      deletePoint: () => model.point !== null && this.edit([{ kind: "delete_reference_point", layer: model.layerIndex, point: model.point }]),
      deleteLane: () => this.edit([{ kind: "clear_lane", layer: model.layerIndex, lane: model.lane }]),
      duplicateLayer: () => this.edit([{ kind: "duplicate_layer", layer: model.layerIndex }], { layer: model.layerIndex + 1 }),
      deleteLayer: () => this.edit([{ kind: "delete_layer", layer: model.layerIndex }], { layer: Math.max(model.layerIndex - 1, 0) }),
      raiseLayer: () => this.moveLayer(1),
      lowerLayer: () => this.moveLayer(-1),
      earlier: () => this.edit([{ kind: "shift_lane", layer: model.layerIndex, lane: model.lane, by: -1 }]),
      later: () => this.edit([{ kind: "shift_lane", layer: model.layerIndex, lane: model.lane, by: 1 }]),
    };
    acts[name]?.(...values);
    return undefined;
  }

  /** Masks are worked on with their own tool, everything else with the others. */
  takeTool(tool) {
    const { model } = this;
    model.set({ tool });
    if (!model.layer || (tool === "mask") === (maskOfLane(model.lane) !== null)) return;
    if (tool !== "hand") model.select({ lane: tool === "mask" ? model.maskLane : "boxes" });
  }

  playPause() {
    if (this.player.isPlaying) this.pause();
    else this.player.play();
    this.mark("all");
  }

  pause() {
    if (!this.player?.isPlaying) return;
    this.player.pause();
    this.mark("all");
  }

  step(frames) {
    this.pause();
    this.model.goTo(this.model.frame + frames);
  }

  toKey(direction) {
    const { model } = this;
    const frame = nextKey(model.keysOf(model.layerIndex, model.lane), model.frame, direction);
    if (frame !== null) {
      this.pause();
      model.goTo(frame);
      model.select({ key: frame });
    }
  }

  /** The key that Del takes: the chosen one, else the one at this frame; null when there is none. */
  keyHere() {
    const { model } = this;
    if (model.key !== null && model.hasKey(model.layerIndex, model.lane, model.key)) return model.key;
    return model.hasKey(model.layerIndex, model.lane, model.frame) ? model.frame : null;
  }

  addKey() {
    const { model } = this;
    const [layer, frame] = [model.layerIndex, model.frame];
    if (!model.layer || maskOfLane(model.lane) !== null || model.hasKey(layer, model.lane, frame)) return;
    if (model.trajectory) {
      this.edit([{ kind: "add_node", layer, trajectory: model.lane, frame, at: model.path(layer, model.lane)[frame] }], { key: frame });
    } else if (model.layer.boxes) {
      this.edit([boxGesture(layer, frame, model.box(layer, frame), model.size)], { key: frame });
    }
  }

  deleteKey() {
    const { model } = this;
    const frame = this.keyHere();
    const mask = maskOfLane(model.lane);
    if (frame !== null && mask !== null) this.edit([{ kind: "delete_prompt", layer: model.layerIndex, mask, frame }]);
    else if (frame !== null) this.edit([{ kind: "delete_key", layer: model.layerIndex, lane: model.lane, frame }]);
  }

  copyKey() {
    const { model } = this;
    const frame = this.keyHere();
    if (frame === null || maskOfLane(model.lane) !== null) return;
    this.clipboard = { layer: model.layerIndex, lane: model.lane, frame };
    navigator.clipboard?.writeText(`key ${frame}`).catch(() => {}); // so that no older image is pasted in its place
    this.mark("all");
    this.say(`The key at frame ${frame} is copied; go to another frame and press Ctrl+V.`);
  }

  canPaste() {
    const { model, clipboard } = this;
    return clipboard !== null && clipboard.frame !== model.frame && model.hasKey(clipboard.layer, clipboard.lane, clipboard.frame);
  }

  pasteKey() {
    const { model, clipboard } = this;
    if (this.canPaste()) this.edit([{ kind: "copy_key", ...clipboard, to: model.frame }], { key: model.frame });
  }

  moveLayer(by) {
    const { layerIndex, layers } = this.model;
    const to = layerIndex + by;
    if (to >= 0 && to < layers.length) this.edit([{ kind: "move_layer", layer: layerIndex, to }], { layer: to });
  }

  markRange(end) {
    const { model } = this;
    const [first, stop] = model.range;
    const range = end === 0 ? [model.frame, Math.max(stop, model.frame + 1)] : [Math.min(first, model.frame), model.frame + 1];
    this.model.range = range; // at once: the other end may be set before the server has answered
    this.edit([{ kind: "set_range", range }]);
  }

  newPath() {
    const { model } = this;
    model.select({ lane: "boxes", key: null, point: null });
    if (!["path", "draw"].includes(model.options.tool)) model.set({ tool: "draw" });
  }

  letGo() {
    if (this.stage.abandon() || this.timeline.abandon()) return;
    if (this.model.options.tool !== "select") this.takeTool("select");
    else this.model.select({ lane: "boxes", key: null, point: null });
  }

  /** End everything that outlives the element. */
  close() {
    document.removeEventListener("keydown", this.onKey);
    document.removeEventListener("keyup", this.onKeyUp);
    document.removeEventListener("paste", this.onPaste);
    clearTimeout(this.againTimer);
    this.sizes.disconnect();
    this.themes.disconnect();
    this.masks.close();
    this.leave();
  }
}

/** The addresses of every picture that a layer shows. */
function keysOf(layer) {
  const shown = (layer.references ?? []).flatMap((each) => [each.key, each.picture]);
  return [...new Set([layer.reference?.key, ...shown])].filter(Boolean);
}

function make(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setIcon(button, name, label) {
  if (button.dataset.icon === name) return;
  button.dataset.icon = name;
  button.innerHTML = icon(name);
  button.title = label;
  button.setAttribute("aria-label", label.split(" (")[0]);
}
