// The meshes that the server computes: per layer and frame, fetched in runs around the playhead, forgotten when the motion changes.

import { decodeBytes, decodeFloats } from "./codec.js";

export const RUN = 48;

export class MeshStore {
  /** ask(wishes) sends {layer, start, stop} wishes to the server. */
  constructor(ask) {
    this.ask = ask;
    this.layers = new Map();
  }

  /** Tell which motion a layer has now; another motion drops its meshes. */
  expect(layer, digest) {
    const known = this.layers.get(layer);
    if (known?.digest === digest) return;
    this.layers.set(layer, { digest, frames: new Map(), asked: new Set() });
  }

  drop(numLayers) {
    for (const layer of [...this.layers.keys()]) if (layer >= numLayers) this.layers.delete(layer);
  }

  /** Ask again for what was on its way when the line broke. */
  retry() {
    for (const store of this.layers.values()) store.asked.clear();
  }

  forget(layer) {
    this.layers.delete(layer);
  }

  /** Take a run of meshes in. */
  keep(mesh) {
    const store = mesh && this.layers.get(mesh.layer);
    if (!store || store.digest !== mesh.digest) return;
    const all = decodeFloats(mesh.vertices);
    const exists = decodeBytes(mesh.exists);
    const length = all.length / (mesh.stop - mesh.start);
    for (let frame = mesh.start; frame < mesh.stop; frame += 1) {
      const at = frame - mesh.start;
      store.frames.set(frame, { vertices: all.subarray(at * length, (at + 1) * length), exists: exists[at] === 1 });
    }
  }

  /** The mesh of a layer at a frame {vertices, exists}; null before it is there (ask for it with `want`). */
  find(layer, frame) {
    return this.layers.get(layer)?.frames.get(frame) ?? null;
  }

  isComplete(layer, start, stop) {
    const store = this.layers.get(layer);
    if (!store) return false;
    for (let frame = start; frame < stop; frame += 1) if (!store.frames.has(frame)) return false;
    return true;
  }

  /** Ask for the runs that hold a frame and the next one, unless they are there or on their way. */
  want(layer, frame, numFrames) {
    const store = this.layers.get(layer);
    if (!store) return;
    const wishes = [];
    for (const run of [Math.floor(frame / RUN), Math.floor(frame / RUN) + 1]) {
      const [start, stop] = [run * RUN, Math.min((run + 1) * RUN, numFrames)];
      if (start >= numFrames || store.asked.has(run)) continue;
      store.asked.add(run);
      if (!this.isComplete(layer, start, stop)) wishes.push({ layer, start, stop });
    }
    if (wishes.length) this.ask(wishes);
  }
}
