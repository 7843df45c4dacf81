/* The choices that stay: the settings dialog, language, theme, sound. Knows no server: it fills one object, which
   others read. */

import { loadSettings, saveSettings } from "./store.js";
import { icon } from "./view.js";
import { current, setLanguage } from "./words.js";

const $ = (id) => document.getElementById(id);
const DRAWN = { language: null, seed: null, temperature: null, top_p: null, guidance: null };
const DEFAULTS = { ...DRAWN, outputs: ["image", "audio"], key: "", autoplay: true, page: "", theme: "" };

export const settings = loadSettings(DEFAULTS);
export const save = () => saveSettings(settings);

/** Binds the header's switches and the dialog. `on.language` is called where the page's language has changed. */
export function startSettings(on) {
  $("language-button").onclick = () => { switchLanguage(); on.language(); };
  $("theme-button").onclick = switchTheme;
  $("autoplay-button").onclick = () => { settings.autoplay = !settings.autoplay; save(); show(); on.sound(settings.autoplay); };
  $("settings-button").onclick = () => { fill(); $("settings-dialog").showModal(); };
  $("settings-form").onchange = read;
  $("settings-form").onreset = () => { Object.assign(settings, DRAWN, { key: "" }); save(); };
  setLanguage(settings.page || (navigator.language.startsWith("ko") ? "ko" : "en"));
  show();
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
  $("autoplay-button").replaceChildren(icon(settings.autoplay ? "sound" : "silence"));
}

function fill() {
  for (const field of $("settings-form").elements) if (field.name) field.value = settings[field.name] ?? "";
}

function read({ target }) {
  if (!target.reportValidity()) return;
  settings[target.name] = target.type === "number" && target.value ? target.valueAsNumber : target.value || null;
  save();
}
