// What is shown: the scene that the server sent, where the person is in it, and what their hand is changing at this moment.

import { followMesh } from "./animatic.js";
import { fromDocument } from "./boxes.js";
import { decodeBytes, decodeFloats, decodeShorts } from "./codec.js";
import { laneOfMask, maskOfLane } from "./masks.js";
import { framesOf } from "./paths.js";

export const COLORS = ["#2dd4bf", "#fb923c", "#a78bfa", "#f472b6", "#60a5fa", "#facc15", "#4ade80", "#f87171"];

export const TOOLS = ["select", "box", "path", "draw", "mask", "hand"];

export class Model {
  /** onChange(what) is called with the set of things that changed: "scene", "frame", "selection", "options", "draft", "mesh". */
  constructor(onChange) {
    this.onChange = onChange;
    this.scene = null;
    this.layers = [];
    this.clip = null;
    this.range = [0, 1];
    this.frame = 0;
    this.layerIndex = 0;
    this.lane = "boxes";
    this.key = null;
    this.point = null;
    this.draft = null;
    this.canUndo = false;
    this.canRedo = false;
    this.options = {
      tool: "select", isLocked: false, showOnion: false, showAnimatic: true, isLooping: true, speed: 1,
      falloff: 12, spacing: "timing", advance: 0, suggest: 4, pick: "add", brush: 24,
    };
  }

  // -- what the server says -------------------------------------------------------------------------------------------------------

  /** Take a new scene in; null shows nothing. */
  takeScene(scene) {
    const before = this.clip?.digest;
    this.scene = scene;
    this.clip = scene?.clip ?? null;
    this.range = scene?.range ?? [0, 1];
    this.layers = (scene?.layers ?? []).map(readLayer);
    this.frame = this.clip && this.clip.digest === before ? Math.min(this.frame, this.clip.num_frames - 1) : this.range[0];
    this.layerIndex = Math.min(this.layerIndex, Math.max(this.layers.length - 1, 0));
    this.mendSelection();
    this.onChange(new Set(["scene", "frame", "selection"]));
  }

  mendSelection() {
    const layer = this.layer;
    const mask = maskOfLane(this.lane);
    const isThere = mask === null ? layer?.trajectories.length > this.lane : mask === "target" ? layer?.kind !== "insert" : mask <= layer?.masks?.holdouts.length;
    if (this.lane !== "boxes" && !isThere) this.lane = "boxes";
    if (this.key !== null && !(String(this.key) in this.keysOf(this.layerIndex, this.lane))) this.key = null;
    if (this.point !== null && !(this.point in (layer?.reference?.points ?? {}))) this.point = null;
  }

  // -- where the person is --------------------------------------------------------------------------------------------------------

  get layer() {
    return this.layers[this.layerIndex] ?? null;
  }

  /** The mask that is worked on: that of the chosen lane, else the layer's first. */
  get maskName() {
    return maskOfLane(this.lane) ?? (this.layer?.kind === "insert" ? 0 : "target");
  }

  get maskLane() {
    return laneOfMask(this.maskName);
  }

  get mask() {
    return this.maskOf(this.layerIndex, this.maskName);
  }

  /** Whether masks are on the screen: while a thing is picked, or the lane of a mask is chosen. */
  get showsMasks() {
    return this.options.tool === "mask" || maskOfLane(this.lane) !== null;
  }

  /** Whether the animatic shows a layer; while a thing is picked it would hide that. */
  drawsCutout(layer) {
    const found = this.layers[layer];
    return Boolean(this.clip && found?.motion) && !found.hidden && this.options.showAnimatic && this.options.tool !== "mask";
  }

  /** Whether a mask is on the screen: shown itself, or in front of a cut-out. */
  needsMask(layer, name) {
    return (layer === this.layerIndex && this.showsMasks) || (name !== "target" && this.drawsCutout(layer));
  }

  get size() {
    return this.clip ?? { width: 16, height: 9 };
  }

  get trajectory() {
    return this.lane === "boxes" ? null : (this.layer?.trajectories[this.lane] ?? null);
  }

  goTo(frame) {
    if (!this.clip) return;
    const held = Math.min(Math.max(Math.round(frame), 0), this.clip.num_frames - 1);
    if (held === this.frame) return;
    this.frame = held;
    this.onChange(new Set(["frame"]));
  }

  select({ layer = this.layerIndex, lane = this.lane, key = null, point = null }) {
    const next = { layerIndex: layer, lane, key, point };
    if (lane !== "boxes" && point === null) next.point = this.layers[layer]?.trajectories[lane]?.point ?? null;
    Object.assign(this, next);
    this.mendSelection();
    this.onChange(new Set(["selection"]));
  }

  set(options) {
    Object.assign(this.options, options);
    this.onChange(new Set(["options"]));
  }

  /** What the hand changes now: {layer, frame, box} or {layer, lane, keys, points} or {newBox}, {stroke}; null when it rests. */
  setDraft(draft) {
    this.draft = draft;
    this.onChange(new Set(["draft"]));
  }

  // -- questions ------------------------------------------------------------------------------------------------------------------

  keysOf(layer, lane) {
    const found = this.layers[layer];
    if (!found) return {};
    if (maskOfLane(lane) !== null) return this.maskKeys(layer, maskOfLane(lane));
    return (lane === "boxes" ? found.boxes?.keys : found.trajectories[lane]?.keys) ?? {};
  }

  /** A mask of a layer as the scene tells of it; null where there is none. */
  maskOf(layer, name) {
    const masks = this.layers[layer]?.masks;
    return (name === "target" ? masks?.target : masks?.holdouts[name]) ?? null;
  }

  /** The names of a layer's masks, in the order of their lanes; the target of a layer that has to have one even before it is there. */
  masksOf(layer) {
    const found = this.layers[layer];
    if (!found?.masks) return [];
    return [...(found.kind !== "insert" ? ["target"] : []), ...found.masks.holdouts.map((_, index) => index)];
  }

  /** Frames with clicks, or with a mask painted by hand. */
  maskKeys(layer, name) {
    const mask = this.maskOf(layer, name);
    return Object.fromEntries([...Object.keys(mask?.prompts ?? {}), ...(mask?.edits ?? [])].map((frame) => [frame, true]));
  }

  framesOf(layer, lane) {
    return framesOf(this.keysOf(layer, lane));
  }

  /** The box of a layer at a frame, in picture pixels, as drawn now; null where there is none. */
  box(layer, frame) {
    const { draft } = this;
    if (draft?.box && draft.layer === layer && draft.frame === frame) return draft.box;
    const dense = this.layers[layer]?.boxes?.dense;
    if (!dense) return null;
    const at = 5 * frame;
    return fromDocument(dense.subarray(at, at + 4), dense[at + 4], this.size);
  }

  hasKey(layer, lane, frame) {
    return String(frame) in this.keysOf(layer, lane);
  }

  exists(layer, frame) {
    const visible = this.layers[layer]?.boxes?.visible;
    return !visible || visible[frame] === 1;
  }

  /** Points of a trajectory by frame, 0..1. */
  path(layer, lane) {
    const { draft } = this;
    if (draft?.points && draft.layer === layer && draft.lane === lane) return draft.points;
    return this.layers[layer]?.trajectories[lane]?.points ?? [];
  }

  isVisible(trajectory, frame) {
    return !trajectory.visible || trajectory.visible.some(([start, stop]) => frame >= start && frame < stop);
  }

  /** The colour of a reference point and of the path that moves it. */
  pointColor(layer, name) {
    const found = this.layers[layer];
    const names = [...new Set([...Object.keys(found?.reference?.points ?? {}), ...(found?.trajectories ?? []).map((each) => each.point)])];
    return COLORS[(Math.max(names.indexOf(name), 0) + layer + 1) % COLORS.length];
  }

  layerColor(layer) {
    return COLORS[layer % COLORS.length];
  }

  /** Where a reference point that no path moves is carried by a mesh, 0..1 of the picture; null when unknown. */
  carried(layer, name, vertices) {
    const found = this.layers[layer];
    const spot = found?.reference?.points[name];
    if (!spot || !found.motion || !vertices) return null;
    return followMesh(found.motion.uv, found.motion.triangles, vertices, spot);
  }

  /** Points of the reference that no trajectory moves. */
  freePoints(layer) {
    const found = this.layers[layer];
    const moved = new Set((found?.trajectories ?? []).map((each) => each.point));
    return Object.keys(found?.reference?.points ?? {}).filter((name) => !moved.has(name));
  }
}

function readLayer(layer) {
  return {
    ...layer,
    boxes: layer.boxes && { keys: layer.boxes.keys, dense: decodeFloats(layer.boxes.dense), visible: decodeBytes(layer.boxes.visible) },
    trajectories: layer.trajectories.map((each) => ({ ...each, points: pairs(decodeFloats(each.dense)) })),
    motion: layer.motion && {
      digest: layer.motion.digest,
      aspect: layer.motion.aspect,
      uv: decodeFloats(layer.motion.uv),
      triangles: decodeShorts(layer.motion.triangles),
    },
  };
}

function pairs(flat) {
  const points = new Array(flat.length / 2);
  for (let index = 0; index < points.length; index += 1) points[index] = [flat[2 * index], flat[2 * index + 1]];
  return points;
}
