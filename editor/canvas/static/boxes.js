// Boxes in picture pixels: {x0, y0, x1, y1, turn} with turn clockwise in degrees about the centre. Pure functions.

export const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];

const SIDES = {
  nw: [-1, -1], n: [0, -1], ne: [1, -1], e: [1, 0], se: [1, 1], s: [0, 1], sw: [-1, 1], w: [-1, 0],
};

export const centreOf = (box) => [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2];

function turned([x, y], degrees) {
  const angle = (degrees * Math.PI) / 180;
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  return [x * c - y * s, x * s + y * c];
}

/** A point in the box's own frame: origin at its centre, axes along its sides. */
export function toLocal(box, point) {
  const [cx, cy] = centreOf(box);
  return turned([point[0] - cx, point[1] - cy], -box.turn);
}

export function fromLocal(box, local) {
  const [cx, cy] = centreOf(box);
  const [x, y] = turned(local, box.turn);
  return [x + cx, y + cy];
}

/** Where a handle is. */
export function handleAt(box, name) {
  const [sx, sy] = SIDES[name];
  return fromLocal(box, [(sx * (box.x1 - box.x0)) / 2, (sy * (box.y1 - box.y0)) / 2]);
}

export const cornersOf = (box) => ["nw", "ne", "se", "sw"].map((name) => handleAt(box, name));

/** Where the rotation handle is: above the upper edge by `distance`. */
export const rotationHandle = (box, distance) => fromLocal(box, [0, -(box.y1 - box.y0) / 2 - distance]);

/** Which part of a box lies under a point: a handle, "rotate", "move", or null. `reach` in picture pixels. */
export function partAt(box, point, reach, rotationDistance) {
  const spin = rotationHandle(box, rotationDistance);
  if (Math.hypot(spin[0] - point[0], spin[1] - point[1]) <= reach) return "rotate";
  const [lx, ly] = toLocal(box, point);
  const [halfWidth, halfHeight] = [(box.x1 - box.x0) / 2, (box.y1 - box.y0) / 2];
  // The middle of a box moves it, however close its handles are.
  if (Math.abs(lx) <= halfWidth / 2 && Math.abs(ly) <= halfHeight / 2) return "move";
  let best = null;
  let nearest = reach;
  for (const name of HANDLES) {
    const [x, y] = handleAt(box, name);
    const distance = Math.hypot(x - point[0], y - point[1]);
    if (distance <= nearest) [best, nearest] = [name, distance];
  }
  if (best) return best;
  return Math.abs(lx) <= halfWidth && Math.abs(ly) <= halfHeight ? "move" : null;
}

/**
 * The box after dragging one of its parts from one point to another.
 * options: isLocked keeps the aspect, isCentred resizes about the centre, isSnapped turns in steps of 15°, minimum is the smallest side.
 */
export function dragBox(start, part, from, to, options = {}) {
  if (part === "move") return shifted(start, to[0] - from[0], to[1] - from[1], options.isSnapped);
  if (part === "rotate") return spun(start, from, to, options.isSnapped);
  return resized(start, part, from, to, options);
}

function shifted(box, dx, dy, isStraight) {
  const [mx, my] = isStraight ? (Math.abs(dx) >= Math.abs(dy) ? [dx, 0] : [0, dy]) : [dx, dy];
  return { ...box, x0: box.x0 + mx, x1: box.x1 + mx, y0: box.y0 + my, y1: box.y1 + my };
}

function spun(box, from, to, isSnapped) {
  const [cx, cy] = centreOf(box);
  const angle = ([x, y]) => (Math.atan2(y - cy, x - cx) * 180) / Math.PI;
  let by = angle(to) - angle(from);
  by -= 360 * Math.round(by / 360);
  const turn = box.turn + by;
  return { ...box, turn: isSnapped ? Math.round(turn / 15) * 15 : turn };
}

function resized(box, part, from, to, { isLocked = false, isCentred = false, minimum = 2 }) {
  const [sx, sy] = SIDES[part];
  const [ax, ay] = toLocal(box, from);
  const [bx, by] = toLocal(box, to);
  const [width, height] = [box.x1 - box.x0, box.y1 - box.y0];
  const share = isCentred ? 2 : 1;
  let newWidth = Math.max(width + sx * (bx - ax) * share, minimum);
  let newHeight = Math.max(height + sy * (by - ay) * share, minimum);
  if (isLocked) {
    const [byWidth, byHeight] = [newWidth / width, newHeight / height];
    let scale = sx === 0 ? byHeight : sy === 0 ? byWidth : Math.abs(byWidth - 1) > Math.abs(byHeight - 1) ? byWidth : byHeight;
    scale = Math.max(scale, minimum / Math.min(width, height));
    [newWidth, newHeight] = [width * scale, height * scale];
  }
  const offset = isCentred ? [0, 0] : [(sx * (newWidth - width)) / 2, (sy * (newHeight - height)) / 2];
  const [cx, cy] = fromLocal(box, offset);
  return { x0: cx - newWidth / 2, x1: cx + newWidth / 2, y0: cy - newHeight / 2, y1: cy + newHeight / 2, turn: box.turn };
}

/** A box from two corners, at least `minimum` wide and high. */
export function boxBetween(a, b, isSquare = false, minimum = 2) {
  let [dx, dy] = [b[0] - a[0], b[1] - a[1]];
  if (isSquare) {
    const side = Math.max(Math.abs(dx), Math.abs(dy));
    [dx, dy] = [Math.sign(dx || 1) * side, Math.sign(dy || 1) * side];
  }
  const [x0, x1] = [Math.min(a[0], a[0] + dx), Math.max(a[0], a[0] + dx)];
  const [y0, y1] = [Math.min(a[1], a[1] + dy), Math.max(a[1], a[1] + dy)];
  return { x0, y0, x1: Math.max(x1, x0 + minimum), y1: Math.max(y1, y0 + minimum), turn: 0 };
}

/** Hold a box within what a document allows: one picture beyond each edge. Its size is kept where it fits. */
export function heldBox(box, size) {
  const hold = (low, high, length) => {
    const span = Math.min(high - low, 3 * length);
    const start = Math.min(Math.max(low, -length), 2 * length - span);
    return [start, start + span];
  };
  const [x0, x1] = hold(box.x0, box.x1, size.width);
  const [y0, y1] = hold(box.y0, box.y1, size.height);
  return { x0, y0, x1, y1, turn: Math.min(Math.max(box.turn, -36000), 36000) };
}

export const toDocument = (box, size) => [box.x0 / size.width, box.y0 / size.height, box.x1 / size.width, box.y1 / size.height];

export const fromDocument = ([x0, y0, x1, y1], turn, size) => ({
  x0: x0 * size.width, y0: y0 * size.height, x1: x1 * size.width, y1: y1 * size.height, turn,
});

/**
 * The affine map [a, b, c, d, e, f] (as in canvas: x' = a x + c y + e) that carries what stood in one box into another: what is drawn
 * while a box is dragged. `aspect` is the object's width over height, for fit "contain".
 */
export function carry(before, after, { fit, anchor, aspect }) {
  const [w0, h0] = [before.x1 - before.x0, before.y1 - before.y0];
  const [w1, h1] = [after.x1 - after.x0, after.y1 - after.y0];
  const contained = (width, height) => Math.min(width / aspect, height);
  let [kx, ky] = [w1 / w0, h1 / h0];
  if (fit === "contain") kx = ky = contained(w1, h1) / contained(w0, h0);
  const foot = fit === "contain" && anchor === "bottom" ? 1 : 0;
  const [px, py] = fromLocal(before, [0, (foot * h0) / 2]);
  const [qx, qy] = fromLocal(after, [0, (foot * h1) / 2]);
  const [t0, t1] = [(before.turn * Math.PI) / 180, (after.turn * Math.PI) / 180];
  const [c0, s0, c1, s1] = [Math.cos(t0), Math.sin(t0), Math.cos(t1), Math.sin(t1)];
  // R(t1) · diag(kx, ky) · R(-t0)
  const a = c1 * kx * c0 + s1 * ky * s0;
  const c = c1 * kx * s0 - s1 * ky * c0;
  const b = s1 * kx * c0 - c1 * ky * s0;
  const d = s1 * kx * s0 + c1 * ky * c0;
  return [a, b, c, d, qx - a * px - c * py, qy - b * px - d * py];
}
