// How the picture lies on the stage. A view is {scale, x, y}: picture pixel p is drawn at p * scale + (x, y) CSS pixels.
// Document coordinates are 0..1 of the picture; size is {width, height} of the clip in pixels.

export const MIN_ZOOM = 0.25;
export const MAX_ZOOM = 16;

/** The view that shows the whole picture, centred, with a margin (CSS pixels). */
export function fitView(stage, size, margin = 12) {
  const room = { width: Math.max(stage.width - 2 * margin, 16), height: Math.max(stage.height - 2 * margin, 16) };
  const scale = Math.min(room.width / size.width, room.height / size.height);
  return { scale, x: (stage.width - size.width * scale) / 2, y: (stage.height - size.height * scale) / 2 };
}

/** Zoom about a point of the stage; the zoom stays within MIN_ZOOM..MAX_ZOOM times the fitting scale. */
export function zoomAt(view, factor, at, fitScale) {
  const scale = Math.min(Math.max(view.scale * factor, fitScale * MIN_ZOOM), fitScale * MAX_ZOOM);
  const share = scale / view.scale;
  return { scale, x: at[0] - (at[0] - view.x) * share, y: at[1] - (at[1] - view.y) * share };
}

/** Keep at least a strip of the picture on the stage. */
export function holdOnStage(view, stage, size, strip = 48) {
  const hold = (offset, length, room) => Math.min(Math.max(offset, strip - length), room - strip);
  return {
    scale: view.scale,
    x: hold(view.x, size.width * view.scale, stage.width),
    y: hold(view.y, size.height * view.scale, stage.height),
  };
}

export const toStage = (view, point) => [point[0] * view.scale + view.x, point[1] * view.scale + view.y];
export const toPicture = (view, at) => [(at[0] - view.x) / view.scale, (at[1] - view.y) / view.scale];
