// Keys of the keyboard and what they do: names of actions, looked up by mount.

const PLAIN = {
  " ": "play", k: "key", v: "tool:select", b: "tool:box", p: "tool:path", d: "tool:draw", h: "tool:hand", s: "tool:mask", x: "togglePick", "[": "smaller", "]": "larger", n: "newPath", i: "markIn",
  u: "markOut", o: "onion", a: "animatic", l: "loop", ",": "prevKey", ".": "nextKey", "+": "zoomIn", "=": "zoomIn", "-": "zoomOut",
  "0": "fit", "?": "help", home: "first", end: "last", delete: "deleteKey", backspace: "deleteKey", escape: "letGo",
};

const ARROWS = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] };

/** The action of a key press: a name, ["step", frames], ["nudge", dx, dy], or null. */
export function actionFor({ key, ctrlKey, metaKey, shiftKey, altKey }) {
  const name = key.toLowerCase();
  if (ctrlKey || metaKey) {
    if (altKey) return null;
    if (name === "z") return shiftKey ? "redo" : "undo";
    return { y: "redo", c: "copyKey" }[name] ?? null; // Ctrl+V comes as a paste, perhaps of a picture
  }
  if (name in ARROWS) {
    const [dx, dy] = ARROWS[name];
    const far = shiftKey ? 10 : 1;
    if (altKey) return ["nudge", dx * far, dy * far];
    return dx ? ["step", dx * far] : ["nudge", 0, dy * far];
  }
  return altKey ? null : (PLAIN[name] ?? null);
}

/** Whether a key press belongs to something else: a text field, or a control that uses this key itself. */
export function isTaken(event, root) {
  const target = event.target;
  if (event.key.toLowerCase() === "c" && (event.ctrlKey || event.metaKey) && String(window.getSelection())) return true;
  if (target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable]")) return true;
  if (target.closest?.("dialog")) return true;
  if (target.closest?.("input[type=range]") && event.key.startsWith("Arrow")) return true;
  if ([" ", "Enter"].includes(event.key) && target.closest?.("button, a, summary, input, label, [role=button], video, audio")) return true;
  if (event.ctrlKey || event.metaKey) return false;
  return !root.contains(target) && target !== document.body && target !== document.documentElement;
}
