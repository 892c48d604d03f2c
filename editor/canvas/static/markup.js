// The canvas's own elements. Everything a person reads is text here or set with textContent; nothing from a document becomes markup.

import { icon } from "./icons.js";
import { LARGE, REFERENCE } from "./reference.js";

const button = (action, name, label, extra = "") =>
  `<button type="button" class="cv-button" data-do="${action}" title="${label}" aria-label="${label.split(" (")[0]}" ${extra}>${icon(name)}</button>`;

const tool = (name, label, word) =>
  `<button type="button" class="cv-button cv-tool" data-tool="${name}" title="${label}" aria-label="${label.split(" (")[0]}" aria-pressed="false">${icon(name)}<small>${word}</small></button>`;

const choice = (name, options) =>
  `<div class="cv-choice" role="radiogroup" data-choice="${name}">${options
    .map(([value, label]) => `<button type="button" role="radio" aria-checked="false" data-value="${value}">${label}</button>`)
    .join("")}</div>`;

const number = (name, label, unit = "", attributes = "") =>
  `<label class="cv-field"><span>${label}</span><input type="number" data-field="${name}" step="1" ${attributes}>${unit ? `<em>${unit}</em>` : ""}</label>`;

const SPEEDS = [0.25, 0.5, 1, 2];

export const MARKUP = `<div class="cv-body">
<div class="cv-bar" role="toolbar" aria-label="Tools">
  <div class="cv-group">
    ${tool("select", "Select and move (V)", "Select")}${tool("box", "Draw a box (B)", "Draw box")}${tool("path", "Path by clicks (P)", "Path")}
    ${tool("draw", "Path by hand (D)", "Freehand")}${tool("mask", "Pick a thing in the video (S)", "Pick")}${tool("hand", "Move the view (H, or hold Space)", "View")}
  </div>
  <div class="cv-group">${button("undo", "undo", "Undo (Ctrl+Z)")}${button("redo", "redo", "Redo (Ctrl+Y)")}</div>
  <div class="cv-group">
    ${button("lock", "lock", "Keep the aspect (Shift while dragging)", 'aria-pressed="false"')}
    ${button("onion", "onion", "Neighbouring keys (O)", 'aria-pressed="false"')}
    ${button("animatic", "animatic", "Show the object (A)", 'aria-pressed="true"')}
  </div>
  <span class="cv-space"></span>
  <div class="cv-group">
    ${button("zoomOut", "minus", "Zoom out (−)")}<button type="button" class="cv-button cv-wide" data-do="fit" title="Fit (0)" data-percent>100%</button>
    ${button("zoomIn", "plus", "Zoom in (+)")}
  </div>
  <div class="cv-group">${button("help", "help", "Shortcuts (?)")}</div>
  <div class="cv-kit" role="toolbar" aria-label="Picking a thing" hidden></div>
</div>
  <div class="cv-stage" data-painted-frame="">
    <canvas class="cv-frame"></canvas><canvas class="cv-animatic"></canvas>
    <canvas class="cv-overlay" tabindex="0" role="application" aria-label="The current frame; draw boxes and paths on it"></canvas>
    <p class="cv-empty">Add a video to begin.</p>
    <p class="cv-hint" aria-live="polite"></p>
    <p class="cv-toast" role="alert" hidden></p>
    <p class="cv-offer" role="status" hidden><span>The camera moves.</span>
      <button type="button" class="cv-text" data-offer="yes">Stick to the scene</button><button type="button" class="cv-text" data-offer="no">No</button></p>
  </div>
  <aside class="cv-side" aria-label="Properties"></aside>
<div class="cv-transport" role="toolbar" aria-label="Playing">
  <div class="cv-group">
    ${button("first", "first", "First frame (Home)")}${button("prevKey", "prevKey", "Previous key (,)")}
    ${button("play", "play", "Play (Space)", 'data-play')}
    ${button("nextKey", "nextKey", "Next key (.)")}${button("last", "last", "Last frame (End)")}
  </div>
  <div class="cv-group">${button("loop", "loop", "Repeat (L)", 'aria-pressed="true"')}
    <label class="cv-select" title="Speed"><select data-speed aria-label="Speed">${SPEEDS.map((speed) => `<option value="${speed}">${speed}×</option>`).join("")}</select></label>
  </div>
  <div class="cv-group">${button("key", "key", "Make a key here (K)")}${button("copyKey", "copy", "Copy the key (Ctrl+C)")}${button("pasteKey", "paste", "Put the copied key here (Ctrl+V)")}${button("deleteKey", "trash", "Delete the key (Del)")}</div>
  <span class="cv-space"></span>
  <output class="cv-counter" aria-label="Frame and time"><span data-count></span><span data-clock></span></output>
  <div class="cv-group">${button("markIn", "markIn", "Start here (I)")}${button("markOut", "markOut", "End here (U)")}</div>
</div>
<div class="cv-timeline">
  <div class="cv-heads"></div>
  <canvas class="cv-tracks" tabindex="0" role="application" aria-label="Timeline; drag to scrub, drag keys to move them"></canvas>
</div>
</div>
<dialog class="cv-help" aria-label="Shortcuts"></dialog>${LARGE}`;

export const SIDE = `
<section data-part="nothing"><h3>Motion</h3><p class="cv-note" data-note></p></section>
<section data-part="box">
  <h3><span class="cv-swatch" data-swatch></span>Box <em data-where></em></h3>
  <div class="cv-grid">${number("x", "X")}${number("y", "Y")}${number("w", "W", "", 'min="2"')}${number("h", "H", "", 'min="2"')}${number("turn", "Turn", "°")}</div>
  <div data-when="key">
    <h4>Until the next key</h4>${choice("ease", [["linear", "Linear"], ["smooth", "Smooth"], ["hold", "Hold"]])}
    <label class="cv-check"><input type="checkbox" data-check="enter"><span>Appears at this key</span></label>
    <label class="cv-check"><input type="checkbox" data-check="leave"><span>Disappears after this key</span></label>
  </div>
  <div class="cv-row"><button type="button" class="cv-text" data-do="key" data-when="between">Make a key here</button>
  <button type="button" class="cv-text" data-do="deleteKey" data-when="key">Delete this key</button></div>
</section>
<section data-part="path">
  <h3><span class="cv-swatch" data-swatch></span>Path <em data-where></em></h3>
  <div class="cv-grid">${number("px", "X")}${number("py", "Y")}</div>
  <h4>Between nodes</h4>${choice("pathEase", [["linear", "Linear"], ["smooth", "Smooth"], ["hold", "Hold"]])}
  <h4>Neighbours follow</h4>
  <label class="cv-slider"><input type="range" data-option="falloff" min="0" max="60" step="1" aria-label="Frames over which neighbours follow"><output data-out="falloff"></output></label>
  <h4>Visible</h4>
  <div class="cv-grid">${number("from", "From")}${number("to", "To")}</div>
  <div class="cv-row"><button type="button" class="cv-text" data-do="earlier">Earlier</button><button type="button" class="cv-text" data-do="later">Later</button>
  <button type="button" class="cv-text" data-do="newPath">New path</button><button type="button" class="cv-text" data-do="deleteLane">Delete path</button></div>
</section>
<section data-part="drawing">
  <h3>New path</h3>
  <div data-when="draw"><h4>Timing of a stroke</h4>${choice("spacing", [["timing", "As drawn"], ["even", "Even"]])}</div>
  <div data-when="path"><h4>After a click, go on by</h4><label class="cv-field"><input type="number" data-option="advance" min="0" max="500" step="1"><em>frames</em></label></div>
  <p class="cv-note" data-note></p>
</section>
<section data-part="follow">
  <h3>Sticks to</h3>${choice("follow", [["none", "Screen"], ["scene", "Scene"], ["region", "Its box"], ["points", "Points"]])}
  <div data-when="followed"><h4>Moves by</h4>${choice("followKind", [["translation", "Shift"], ["similarity", "Turn, size"], ["homography", "Perspective"]])}</div>
  <p class="cv-note" data-note role="status"></p>
</section>
${REFERENCE}
<section data-part="layer">
  <h3>Layer</h3>
  <label class="cv-line"><span>Name</span><input type="text" data-text="name" maxlength="200"></label>
  <div class="cv-line"><span>Does</span>${choice("layer_kind", [["insert", "Insert"], ["replace", "Replace"], ["remove", "Remove"]])}</div>
  <div class="cv-line"><span>Fit</span>${choice("fit", [["contain", "Keep shape"], ["stretch", "Fill the box"]])}</div>
  <div class="cv-line"><span>Stands</span>${choice("anchor", [["center", "Centre"], ["bottom", "Bottom"]])}</div>
  <div class="cv-line"><span>Bends</span>${choice("deform", [["auto", "By points"], ["perspective", "Flat, 4 points"]])}</div>
  <p class="cv-note cv-fault" data-fault></p>
  <div class="cv-row"><button type="button" class="cv-text" data-do="duplicateLayer">Duplicate</button>
  <button type="button" class="cv-text" data-do="raiseLayer">Forward</button><button type="button" class="cv-text" data-do="lowerLayer">Backward</button>
  <button type="button" class="cv-text" data-do="deleteLayer">Delete</button></div>
</section>`;

const KEYS = [
  ["Space", "Play and pause"], ["← →", "One frame back, on"], ["Shift ← →", "Ten frames"], ["Home End", "Start and end of the range"],
  [", .", "Previous, next key"], ["K", "Make a key here"], ["Del", "Delete the key, or the path's node"],
  ["Ctrl C, Ctrl V", "Copy the key, put it at this frame"], ["Ctrl V", "A picture: becomes the chosen layer's reference"], ["Alt ← → ↑ ↓", "Nudge by a pixel (Shift: ten)"],
  ["Ctrl Z, Ctrl Y", "Undo, redo"], ["V B P D S H", "Select, box, path, draw, pick a thing, view"], ["Right click, X", "While picking: what does not belong to the thing"], ["[ ]", "Smaller, larger brush"], ["N", "Begin another path"], ["I U", "Start, end of the range here"],
  ["O A L", "Neighbours, object, repeat"], ["+ − 0", "Zoom in, out, fit"], ["Shift", "While dragging: keep the aspect, turn by 15°, move straight"],
  ["Alt", "While dragging: about the centre; a key: copy it"], ["Shift on a lane", "Drag all of its keys in time"], ["Esc", "Let go"], ["?", "This sheet"],
];

export const HELP = `<form method="dialog"><header><h3>Shortcuts</h3><button class="cv-button" aria-label="Close" value="close">${icon("close")}</button></header>
<dl>${KEYS.map(([keys, what]) => `<div><dt>${keys}</dt><dd>${what}</dd></div>`).join("")}</dl></form>`;
