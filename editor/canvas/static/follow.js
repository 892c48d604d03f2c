// What an object sticks to: nothing, the whole scene, or what is in its box. The tracking itself happens on the server.

const AGAIN_MS = 700;

/** Which of the choices a layer's tie is. */
export function choiceOf(tie) {
  if (!tie) return "none";
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

/** How far the tracking of a layer's tie is, in a sentence. */
export function followNote(tie) {
  if (!tie) return "";
  if (tie.state === "tracking") return "Following: tracking…";
  if (tie.state === "failed") return tie.fault;
  const where = tie.lost.slice(0, 3).map(([start, stop]) => (stop - start === 1 ? `${start}` : `${start} to ${stop - 1}`));
  if (where.length) return `Tied to the scene of frame ${tie.key_frame}; lost at ${where.join(", ")}${tie.lost.length > 3 ? " and more" : ""}.`;
  return `Tied to the scene of frame ${tie.key_frame}.`;
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
    offer.hidden = !isOffered(clip, layer) || this.refused.has(clip.digest);
    part.hidden = !layer || layer.kind === "remove";
    if (part.hidden) return;
    const choice = choiceOf(layer.follow);
    check(part.querySelector('[data-choice="follow"]'), choice);
    check(part.querySelector('[data-choice="followKind"]'), layer.follow?.kind ?? "");
    part.querySelector('[data-when="followed"]').hidden = choice === "none";
    const note = part.querySelector("[data-note]");
    const text = followNote(layer.follow) || (clip?.camera_moves ? "The camera moves in this clip." : "");
    if (note.textContent !== text) note.textContent = text;
    note.classList.toggle("cv-fault", layer.follow?.state === "failed");
  }

  /** Tie the layer to the frame that is looked at. */
  choose(choice) {
    const { model } = this;
    const box = model.layer?.boxes ? model.box(model.layerIndex, model.frame) : null;
    const gesture = followGesture(model.layerIndex, choice, { frame: model.frame, box, size: model.size });
    if (gesture) this.edit([gesture]);
    return Boolean(gesture);
  }

  /** The same tie, moving in another way. */
  chooseKind(kind) {
    const { layer } = this.model;
    if (!layer?.follow) return;
    const { key_frame: frame, region } = layer.follow;
    this.edit([{ kind: "set_follow", layer: this.model.layerIndex, surface: kind, frame, ...(region ? { region } : {}) }]);
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
