/* The choices that stay: the settings dialog, language, theme, sound. Knows no server: it fills one object, which
   others read. */

import { loadSettings, saveSettings } from "./store.js";
import { dress, element } from "./view.js";
import { current, setLanguage } from "./words.js";

const $ = (id) => document.getElementById(id);
const DRAWN = { language: null, seed: null, temperature: null, top_p: null, guidance: null };
const CHOSEN = { compare: false, model: "" };
const DEFAULTS = { ...DRAWN, ...CHOSEN, outputs: ["text", "image", "audio"], key: "", autoplay: true, page: "", theme: "" };

export const settings = loadSettings(DEFAULTS);
export const save = () => saveSettings(settings);
let served = []; // names of models
let compared = []; // of the two that may be asked side by side

/** The models that are to answer: both, one, or null where there is nothing to choose. */
export function asked() {
  if (served.length < 2) return [null];
  return settings.compare ? compared : [served.find((name) => name === settings.model) ?? served[0]];
}

/** Takes the models that the server has; a choice between fewer than two is not shown. */
export function setServed(models) {
  served = models.map(({ name }) => name);
  compared = models.filter(({ asks }) => !asks).map(({ name }) => name).slice(0, 2);
  $("models").hidden = served.length < 2;
  $("settings-form").elements.model.replaceChildren(...served.map((name) => element("option", { value: name, textContent: name })));
  showChoice();
}

/** Binds the header's switches and the dialog. `on.language` is called where the page's language has changed, `on.key` where
 *  the key has. */
export function startSettings(on) {
  $("language-button").onclick = () => { switchLanguage(); on.language(); };
  $("theme-button").onclick = switchTheme;
  $("autoplay-button").onclick = () => { settings.autoplay = !settings.autoplay; save(); show(); on.sound(settings.autoplay); };
  $("settings-button").onclick = () => openSettings();
  $("settings-form").onchange = ({ target }) => { read(target); if (target.name === "key") on.key(); };
  $("settings-form").onreset = () => { Object.assign(settings, DRAWN, CHOSEN, { key: "" }); save(); showChoice(); on.key(); };
  setLanguage(settings.page || (navigator.language.startsWith("ko") ? "ko" : "en"));
  show();
}

/** Opens the dialog, at a field where one is named. */
export function openSettings(field) {
  fill();
  $("settings-dialog").showModal();
  if (field) $("settings-form").elements[field].focus();
}

function switchLanguage() {
  settings.page = current() === "ko" ? "en" : "ko";
  save();
  setLanguage(settings.page);
}

function switchTheme() {
  const dark = settings.theme ? settings.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  settings.theme = dark ? "light" : "dark";
  save();
  show();
}

function show() {
  document.documentElement.dataset.theme = settings.theme;
  $("autoplay-button").setAttribute("aria-pressed", settings.autoplay);
  dress($("autoplay-button"), settings.autoplay ? "sound" : "silence", "autoplay_short");
}

function fill() {
  const { elements } = $("settings-form");
  for (const field of elements) if (field.name) field.value = settings[field.name] ?? "";
  showChoice();
}

/** With both asked, there is no one to choose. */
function showChoice() {
  const { compare, model } = $("settings-form").elements;
  compare.checked = settings.compare;
  model.value = served.includes(settings.model) ? settings.model : served[0];
  $("model-choice").hidden = settings.compare;
}

function read(field) {
  if (!field.reportValidity()) return;
  const value = field.type === "number" && field.value ? field.valueAsNumber : field.value || null;
  settings[field.name] = field.type === "checkbox" ? field.checked : value;
  save();
  showChoice();
}
