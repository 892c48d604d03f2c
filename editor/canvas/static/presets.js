// Faces and garments: what their points are called, and the lines that show how they belong together.

/** [name, name]: a line from one point to the other. */
const FACE_LINES = [
  ["left_brow_outer", "left_brow_inner"], ["right_brow_inner", "right_brow_outer"], ["left_eye_outer", "left_eye_inner"],
  ["right_eye_inner", "right_eye_outer"], ["mouth_left", "mouth_top"], ["mouth_top", "mouth_right"], ["mouth_right", "mouth_bottom"],
  ["mouth_bottom", "mouth_left"], ["left_jaw", "chin"], ["chin", "right_jaw"],
];

const GARMENT_LINES = ["left", "right"].flatMap((side) => [
  ["collar", "shoulder"], ["shoulder", "cuff_top"], ["cuff_top", "cuff_bottom"], ["cuff_bottom", "armpit"], ["armpit", "waist"], ["waist", "hem"],
].map((pair) => pair.map((name) => `${side}_${name}`))).concat([["left_collar", "right_collar"], ["left_hem", "right_hem"]]);

/** What the menu offers, in order: value, label. */
export const PRESETS = [["face", "Face (16)"], ["garment", "Garment (14)"]];

/** The lines between those of `points` (an object by name) that belong together, as pairs of names. */
export function linesBetween(points) {
  return [...FACE_LINES, ...GARMENT_LINES].filter(([from, to]) => from in points && to in points);
}

/** A point's name as a person reads it: left_eye_outer is "left eye, outer". */
export function readableName(name) {
  const words = name.split("_");
  return words.length === 3 ? `${words[0]} ${words[1]}, ${words[2]}` : words.join(" ");
}
