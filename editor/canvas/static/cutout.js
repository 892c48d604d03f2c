// Correcting a cut-out by hand: strokes and clicks as the server takes them. A view is {scale, x, y} as in view.js; sizes are pixels of
// the picture, document coordinates 0..1 of it.

import { toPicture } from "./view.js";

export const MAX_STROKE_POINTS = 2000;
export const BRUSH_SIZES = [2, 120];

/** A stroke without points that lie nearer than `step` to the one before; its ends stay, and it never has more than the server takes. */
export function thinned(points, step, most = MAX_STROKE_POINTS) {
  const kept = points.slice(0, 1);
  for (const point of points.slice(1)) {
    const last = kept[kept.length - 1];
    if (Math.hypot(point[0] - last[0], point[1] - last[1]) >= step) kept.push(point);
  }
  if (points.length > 1 && kept[kept.length - 1] !== points[points.length - 1]) kept.push(points[points.length - 1]);
  if (kept.length <= most) return kept;
  return Array.from({ length: most }, (_, index) => kept[Math.round((index * (kept.length - 1)) / (most - 1))]);
}

/** Where a place on the view lies in the document, held to what the server takes. */
export function documentSpot(view, size, at, reach = 0) {
  const [x, y] = toPicture(view, at);
  return [x / size.width, y / size.height].map((value) => Math.min(Math.max(value, 0 - reach), 1 + reach));
}

/** The gesture of a stroke of places on the view, drawn with a brush whose diameter is `brush` CSS pixels. */
export function strokeGesture({ layer, reference, places, brush, erase, view, size }) {
  const points = thinned(places, Math.max(brush / 16, 0.5)).map((at) => documentSpot(view, size, at, 0.5));
  const radius = Math.min(Math.max(brush / 2 / view.scale / size.width, 0.0005), 0.5);
  return { kind: "brush_reference", layer, reference, points, radius, erase };
}

/** The gesture of a click at a place on the view: a click that is there already is taken back. */
export function clickGesture({ layer, reference, clicks, at, foreground, view, size, reach = 9 }) {
  const places = clicks.map(([x, y]) => [x * size.width * view.scale + view.x, y * size.height * view.scale + view.y]);
  const found = places.findIndex(([x, y]) => Math.hypot(x - at[0], y - at[1]) <= reach);
  if (found >= 0) return { kind: "remove_reference_click", layer, reference, click: found };
  return { kind: "click_reference", layer, reference, at: documentSpot(view, size, at), foreground };
}

/** The first image among files, or null. */
export function firstImage(files) {
  return [...(files ?? [])].find((file) => file.type.startsWith("image/")) ?? null;
}

/** What the panel says about a picture: its fault, else how it was cut out. */
export function describeWay({ fault, note, way }, isFirst) {
  if (fault) return fault;
  const how = { auto: note, clicked: "corrected by clicks", painted: note === "the whole picture is the object" ? note : "painted by hand", file: "cut out by a mask file" }[way];
  const text = `${how.charAt(0).toUpperCase()}${how.slice(1)}.`;
  return isFirst ? text : `${text} The compositor shows the first picture; engines that can use more take all.`;
}
