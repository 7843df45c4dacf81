/* What the next message will be: its words, its attachments, what is wanted back. Files come by button, drop, paste,
   microphone and camera. Knows no server and no conversation: `on.send` and `on.stop` are given. */

import { OUTPUTS, ServerError, endingsRead, inspect } from "./api.js";
import { close, look, record, shoot } from "./capture.js";
import { ENDINGS_READ, MOST_MB, itemOf, sizeOf } from "./media.js";
import { dress, element, icon, iconButton, shown } from "./view.js";
import { label, say, word } from "./words.js";

const $ = (id) => document.getElementById(id);
let on, settings;
let attached = [];
let recording = null;
let busy = false;

export function startComposer(callbacks, shared) {
  [on, settings] = [callbacks, shared];
  $("composer").onsubmit = (event) => { event.preventDefault(); submit(); };
  $("message").onkeydown = onKey;
  $("message").oninput = grow;
  $("attach-button").onclick = () => $("file").click();
  $("file").onchange = () => { addFiles([...$("file").files]); $("file").value = ""; };
  $("record-button").onclick = toggleRecording;
  $("camera-button").onclick = openCamera;
  $("shoot-button").onclick = takePicture;
  document.onpaste = ({ clipboardData }) => addFiles([...clipboardData.files]);
  startDropping();
  showOutputs();
  new ResizeObserver(() => { // what is scrolled to, or has the focus, is never behind the composer
    document.documentElement.style.setProperty("--composer", `${$("composer").offsetHeight}px`);
  }).observe($("composer"));
}

/** Offers in the file picker what the server reads. */
export async function showFormats() {
  const endings = await endingsRead(settings.key, ENDINGS_READ);
  $("file").accept = ["image/*", "audio/*", "video/*", ...endings].join(",");
}

/** Says in one line what went wrong or right; without a key, nothing. */
export function notice(key, values) {
  const line = $("notice");
  if (key) say(line, key, values);
  else { delete line.dataset.words; line.textContent = ""; }
}

export function setBusy(now) {
  busy = now;
  label($("send-button"), busy ? "stop" : "send");
  dress($("send-button"), busy ? "stop" : "send", busy ? "stop_short" : "send_short");
  document.body.toggleAttribute("data-busy", busy);
}

export function attach(item) {
  const most = MOST_MB * 2 ** 20;
  if ([...attached, item].reduce((sum, a) => sum + sizeOf(a), 0) > most) return notice("error_large", { name: item.name, most: MOST_MB });
  notice();
  attached.push(item);
  showChips();
}

function submit() {
  if (busy) return on.stop();
  const text = $("message").value.trim();
  if (!text && !attached.length) return;
  const media = attached;
  attached = [];
  $("message").value = "";
  notice();
  grow();
  showChips();
  on.send(text, media);
}

function onKey(event) {
  if (event.key === "Escape" && busy) on.stop();
  const composing = event.isComposing || event.keyCode === 229; // Enter also ends a Hangul syllable; Safari says 229
  if (event.key !== "Enter" || event.shiftKey || composing) return;
  event.preventDefault();
  if (!busy) submit();
}

function grow() {
  const box = $("message");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
}

async function addFiles(files) {
  for (const file of files) {
    try {
      const item = await itemOf(file, (blob) => inspect(blob, settings.key));
      if (item) attach(item);
      else notice("error_kind", { name: file.name });
    } catch (error) {
      if (error instanceof ServerError) refuse(file, error.problem);
      else notice(error instanceof TypeError ? "error_network" : "error_read", { name: file.name });
    }
  }
}

/** Says why the server would not read a file; where it is the key that is missing, the settings have a box for it. */
function refuse(file, { words, key, needsKey }) {
  notice("error_file", { name: file.name, words: words ?? word(key) });
  if (needsKey) on.needsKey();
}

function showChips() {
  $("chips").hidden = !attached.length;
  $("chips").replaceChildren(...attached.map(chip));
}

function chip(item) {
  const remove = iconButton("remove", "remove", { name: item.name }, () => {
    attached = attached.filter((a) => a !== item);
    showChips();
    $("message").focus();
  });
  const preview = item.kind === "mesh" ? icon("mesh") : shown(item, item.name);
  if (item.kind === "video") Object.assign(preview, { controls: false });
  const made = element("li", { className: "chip" }, preview, element("span", { textContent: item.name }), remove);
  made.dataset.testid = `chip-${item.kind}`;
  return made;
}

function showOutputs() {
  $("outputs").replaceChildren(...OUTPUTS.map((kind) => {
    const button = say(element("button", { type: "button", className: "toggle", onclick: () => toggleOutput(kind) }), kind);
    button.dataset.kind = kind;
    return button;
  }));
  pressOutputs();
}

/** One thing at least comes back: words, where nothing else is left. */
function toggleOutput(kind) {
  const wanted = OUTPUTS.filter((k) => settings.outputs.includes(k) !== (k === kind));
  settings.outputs = wanted.length ? wanted : ["text"];
  on.changed();
  pressOutputs();
}

function pressOutputs() {
  for (const button of $("outputs").children) button.setAttribute("aria-pressed", settings.outputs.includes(button.dataset.kind));
}

function startDropping() {
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    $("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
  addEventListener("drop", (event) => {
    $("drop").hidden = true;
    if (!holdsFiles(event)) return;
    event.preventDefault();
    addFiles([...event.dataTransfer.files]);
  });
}

async function toggleRecording() {
  if (recording) return recording.stop();
  recording = await refused(record, "error_microphone");
  if (!recording) return;
  showRecording(true);
  const item = await refused(() => recording.item, "error_microphone");
  recording = null;
  showRecording(false);
  if (item) attach(item);
}

/** What `work` gives; undefined, and a line that says so, where the browser or the user refuses. */
async function refused(work, key) {
  try {
    return await work();
  } catch {
    return notice(key);
  }
}

function showRecording(now) {
  $("record-button").setAttribute("aria-pressed", now);
  label($("record-button"), now ? "record_stop" : "record");
  dress($("record-button"), now ? "stop" : "microphone", now ? "record_stop_short" : "record_short");
  if (now) notice("recording");
}

async function openCamera() {
  const stream = await refused(() => look($("viewfinder")), "error_camera");
  if (!stream) return;
  $("camera").addEventListener("close", () => close(stream), { once: true });
  $("camera").showModal();
}

async function takePicture() {
  attach(await shoot($("viewfinder")));
  $("camera").close();
  $("message").focus();
}
