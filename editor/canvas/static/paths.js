// Trajectories as the hand sees them. Keys are {frame: [x, y]} in document coordinates. Pure functions.

/** How much of a node's movement a node this many frames away follows; the server's rule, for the preview during a drag. */
export function falloff(distance, frames) {
  if (distance === 0) return 1;
  return Math.abs(distance) < frames ? 0.5 * (1 + Math.cos((Math.PI * Math.abs(distance)) / frames)) : 0;
}

/** The keys after one node has been moved, its neighbours following. */
export function movedKeys(keys, frame, at, frames) {
  const [x, y] = keys[frame];
  const moved = {};
  for (const [other, [ox, oy]] of Object.entries(keys)) {
    const share = falloff(Number(other) - Number(frame), frames);
    moved[other] = [ox + share * (at[0] - x), oy + share * (at[1] - y)];
  }
  return moved;
}

export const framesOf = (keys) => Object.keys(keys ?? {}).map(Number).sort((a, b) => a - b);

/** The key before or after a frame, or null. */
export function nextKey(keys, frame, direction) {
  const frames = framesOf(keys);
  const found = direction > 0 ? frames.find((other) => other > frame) : frames.reverse().find((other) => other < frame);
  return found ?? null;
}

/** The index of the nearest point within reach, or -1. Later points win ties, as they are drawn on top. */
export function nearestIndex(points, at, reach) {
  let best = -1;
  let nearest = reach;
  points.forEach(([x, y], index) => {
    const distance = Math.hypot(x - at[0], y - at[1]);
    if (distance <= nearest) [best, nearest] = [index, distance];
  });
  return best;
}

/** The frame at which a dense path (points by frame) passes nearest to a place, if within reach; else null. */
export function frameOnPath(points, at, reach) {
  let best = null;
  let nearest = reach;
  for (let frame = 0; frame < points.length; frame += 1) {
    const [ax, ay] = points[frame];
    const [bx, by] = points[Math.min(frame + 1, points.length - 1)];
    const [dx, dy] = [bx - ax, by - ay];
    const length = dx * dx + dy * dy;
    const share = length > 0 ? Math.min(Math.max(((at[0] - ax) * dx + (at[1] - ay) * dy) / length, 0), 1) : 0;
    const distance = Math.hypot(ax + share * dx - at[0], ay + share * dy - at[1]);
    if (distance < nearest) [best, nearest] = [frame + (share > 0.5 ? 1 : 0), distance];
  }
  return best === null ? null : Math.min(best, points.length - 1);
}

/** A freehand stroke while it is drawn: places in document coordinates and the seconds since it began. */
export class Stroke {
  constructor(at, time_ms) {
    this.began_ms = time_ms;
    this.points = [at];
    this.times_s = [0];
  }

  add(at, time_ms) {
    const time = Math.max((time_ms - this.began_ms) / 1000, this.times_s[this.times_s.length - 1]);
    const [x, y] = this.points[this.points.length - 1];
    if (this.points.length >= 19000 || (x === at[0] && y === at[1])) return;
    this.points.push(at);
    this.times_s.push(Math.min(time, 600));
  }

  /** How far it goes, in document units. */
  get length() {
    let sum = 0;
    for (let index = 1; index < this.points.length; index += 1) {
      sum += Math.hypot(this.points[index][0] - this.points[index - 1][0], this.points[index][1] - this.points[index - 1][1]);
    }
    return sum;
  }
}

/** Hold a place within what a document allows. */
export const heldPoint = ([x, y]) => [Math.min(Math.max(x, -1), 2), Math.min(Math.max(y, -1), 2)];
