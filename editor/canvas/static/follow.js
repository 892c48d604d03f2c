// What an object sticks to: nothing, the whole scene, what is in its box, or what lies about points that the hand puts on a surface. The
// tracking itself happens on the server.

import { clickUnder, heldSpot } from "./prompts.js";

const AGAIN_MS = 700;

/** Which of the choices a layer's tie is. */
export function choiceOf(tie) {
  if (!tie) return "none";
  if (tie.points) return "points";
  return tie.region ? "region" : "scene";
}

/** The gesture for a choice at a frame; `box` {x0, y0, x1, y1} and `size` are in picture pixels. Null where it means nothing. */
export function followGesture(layer, choice, { frame, box, size, kind = null }) {
  const base = { kind: "set_follow", layer };
  if (choice === "none") return { ...base, surface: null };
  if (choice === "scene") return { ...base, surface: kind ?? "homography", frame };
  if (!box) return null;
  const held = (value) => Math.min(Math.max(value, 0), 1);
  const region = [box.x0 / size.width, box.y0 / size.height, box.x1 / size.width, box.y1 / size.height].map(held);
  return { ...base, surface: kind ?? "similarity", frame, region };
}

/** The gesture for a click on the surface at the frame that the tie has or gets: another point, or one taken away. */
export function pointGesture(layer, tie, { frame, at, reach, size }) {
  const known = tie?.points ?? [];
  const found = clickUnder(known, at, reach, size);
  const points = found < 0 ? [...known, heldSpot(at, size)] : known.filter((_, index) => index !== found);
  if (!points.length) return { kind: "set_follow", layer, surface: null };
  return { kind: "set_follow", layer, surface: known.length ? tie.kind : "similarity", frame, points };
}

/** How far the tracking of a layer's tie is, in a sentence. */
export function followNote(tie) {
  if (!tie) return "";
  if (tie.state === "tracking") return "Following: tracking…";
  if (tie.state === "failed") return tie.fault;
  const where = tie.lost.slice(0, 3).map(([start, stop]) => (stop - start === 1 ? `${start}` : `${start} to ${stop - 1}`));
  const what = { scene: "the scene", region: "what was in its box", points: tie.points?.length === 1 ? "one point" : `${tie.points?.length} points` }[choiceOf(tie)];
  const lost = where.length ? `; lost at ${where.join(", ")}${tie.lost.length > 3 ? " and more" : ""}` : "";
  const cuts = (tie.cuts ?? []).map(([frame, isAfter]) => ` The clip cuts to another shot at frame ${frame}; ${isAfter ? "from there on" : "before that"} this needs a layer of its own.`);
  return `Tied to ${what} of frame ${tie.key_frame}${lost}.${cuts.join("")}`;
}

/** Whether to offer it: the camera moves, and an object that has a place does not stick to anything yet. */
export function isOffered(clip, layer) {
  return Boolean(clip?.camera_moves && layer && layer.kind !== "remove" && !layer.follow && (layer.boxes || layer.trajectories.length));
}

export class FollowPart {
  /** `part` is the section of the panel, `offer` the line over the stage; `ask` asks the server again for what there is. */
  constructor(part, offer, model, { edit, ask }) {
    Object.assign(this, { part, offer, model, edit, ask });
    this.refused = new Set();
    offer.addEventListener("click", (event) => {
      const answer = event.target.closest("[data-offer]")?.dataset.offer;
      if (answer === "yes") this.choose("scene");
      if (answer === "no") {
        this.refused.add(this.model.clip?.digest);
        this.show();
      }
    });
  }

  show() {
    const { part, offer, model } = this;
    const { layer, clip } = model;
    const isInTheWay = ["mask", "surface"].includes(model.options.tool);
    offer.hidden = isInTheWay || !isOffered(clip, layer) || this.refused.has(clip.digest);
    part.hidden = !layer || layer.kind === "remove";
    if (part.hidden) return;
    const choice = choiceOf(layer.follow);
    check(part.querySelector('[data-choice="follow"]'), model.options.tool === "surface" ? "points" : choice);
    check(part.querySelector('[data-choice="followKind"]'), layer.follow?.kind ?? "");
    part.querySelector('[data-when="followed"]').hidden = choice === "none";
    const note = part.querySelector("[data-note]");
    const isAsking = model.options.tool === "surface" && choice !== "points";
    const text = isAsking ? "Click on the places that it should stick to." : followNote(layer.follow) || (clip?.camera_moves ? "The camera moves in this clip." : "");
    if (note.textContent !== text) note.textContent = text;
    note.classList.toggle("cv-fault", layer.follow?.state === "failed");
  }

  /** Tie the layer to the frame that is looked at. */
  choose(choice) {
    const { model } = this;
    if (choice === "points") return this.pickPoints();
    if (model.options.tool === "surface") model.set({ tool: "select" });
    const box = model.layer?.boxes ? model.box(model.layerIndex, model.frame) : null;
    const gesture = followGesture(model.layerIndex, choice, { frame: model.frame, box, size: model.size });
    if (gesture) this.edit([gesture]);
    return Boolean(gesture);
  }

  /** Let the hand put points on the surface, at the frame where those lie that are there. */
  pickPoints() {
    const { model } = this;
    if (model.layer?.follow?.points) model.goTo(model.layer.follow.key_frame);
    model.set({ tool: "surface" });
    return true;
  }

  /** The same tie, moving in another way. */
  chooseKind(kind) {
    const { layer } = this.model;
    if (!layer?.follow) return;
    const { key_frame: frame, region, points } = layer.follow;
    const where = points ? { points } : region ? { region } : {};
    this.edit([{ kind: "set_follow", layer: this.model.layerIndex, surface: kind, frame, ...where }]);
  }

  /** Every answer of the server says whether something is being tracked; then it is asked again soon. */
  answered(isFollowing) {
    if (!isFollowing || this.timer) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.ask();
    }, AGAIN_MS);
  }
}

function check(group, value) {
  for (const option of group.querySelectorAll("[data-value]")) option.setAttribute("aria-checked", String(option.dataset.value === value));
}
