/* A 3D model that can be turned. It opens as its sentence means it, from the front, swings once to show its depth and
   comes back; turned by hand, it says which side is seen, and a button brings the front back. Knows no message. */

import { isGlb } from "./media.js";
import { element, icon } from "./view.js";
import { say } from "./words.js";

const FRONT = ["0deg 75deg 105%", "0deg 75deg 105.01%"]; // two of the same: the viewer does not see an equal value set again
const SWING_RADIANS = 0.6;
const SWING_MS = 3600;
const FRAME_MS = 100; // at most, of the swing: it is seen where pictures come slowly, too
export const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

/** The viewer of an item; a plain tile where no viewer can show it. */
export function solid(item, about) {
  if (!isGlb(item)) return file(item);
  if (!drawsIn3d()) return file(item, "no_3d");
  loadViewer();
  const viewer = document.createElement("model-viewer");
  const settings = { src: item.url, alt: about, "camera-controls": "", "touch-action": "pan-y", "interaction-prompt": "none",
    "camera-orbit": FRONT[0] };
  for (const [name, value] of Object.entries(settings)) viewer.setAttribute(name, value);
  viewer.addEventListener("error", () => viewer.replaceWith(file(item)));
  if (!calm) viewer.addEventListener("load", () => swing(viewer), { once: true });
  return viewer;
}

/** A tile of what is not shown: its name, or the words why, by their key. */
function file(item, why) {
  const line = element("span", { textContent: item.name });
  return element("div", { className: "file" }, icon("mesh"), why ? say(line, why) : line);
}

/** Whether the browser has WebGL 2: without it the viewer would stay an empty box. Asked once, with a canvas that is let go. */
function drawsIn3d() {
  if (drawing === undefined) {
    const context = document.createElement("canvas").getContext("webgl2");
    drawing = context !== null;
    context?.getExtension("WEBGL_lose_context")?.loseContext();
  }
  return drawing;
}
let drawing;

/** One megabyte, so only once there is something to view. */
function loadViewer() {
  if (!document.querySelector("#viewer")) document.head.append(element("script", { id: "viewer", src: "model-viewer-umd.min.js" }));
}

function swing(viewer) {
  let held = false, spent = 0, before = performance.now();
  for (const event of ["pointerdown", "keydown"]) viewer.addEventListener(event, () => { held = true; }, { once: true });
  const step = (now) => {
    spent += Math.min(Math.max(0, now - before), FRAME_MS);
    before = now;
    if (!viewer.isConnected) return;
    if (held || spent >= SWING_MS) return viewer.resetTurntableRotation(0);
    viewer.resetTurntableRotation(SWING_RADIANS * Math.sin((2 * Math.PI * spent) / SWING_MS));
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

export function showFront(viewer) {
  viewer.setAttribute("camera-orbit", FRONT.find((orbit) => orbit !== viewer.getAttribute("camera-orbit")));
  viewer.resetTurntableRotation(0);
  viewer.jumpCameraToGoal();
}

/** A line that says from where a viewer shows its model, once it is not from the front: from behind, left is right. */
export function sideNote(viewer) {
  const note = element("p", { className: "side", hidden: true });
  viewer.addEventListener("camera-change", () => {
    const side = sideOf(viewer.getCameraOrbit().theta);
    note.hidden = side === "front";
    if (!note.hidden && note.dataset.words !== `side_${side}`) say(note, `side_${side}`);
  });
  return note;
}

/** The side that is seen from an angle about the upright axis, radians. */
function sideOf(theta) {
  const away = Math.abs(Math.atan2(Math.sin(theta), Math.cos(theta)));
  if (away < Math.PI / 4) return "front";
  if (away > (3 * Math.PI) / 4) return "back";
  return Math.sin(theta) > 0 ? "right" : "left";
}
