/* The list of conversations: beside the page, on a phone behind a button. Opens, renames and deletes them; kept in this
   browser. Knows no turn: `on.open` shows a conversation, null a new one, and `on.lost` is told which was deleted.
   A talk is {id, title, time}. */

import { dropTalk, dropUnlisted, loadOpen, loadTalks, loadUnlisted, saveOpen, saveTalk, saveTurn } from "./store.js";
import { element } from "./view.js";
import { label, say } from "./words.js";

const TITLE_LETTERS = 80;
const $ = (id) => document.getElementById(id);
let talks = [];
let shown = null; // the one that is open
let on;

/** Returns the talk that this tab had open, or null. */
export async function startTalks(callbacks) {
  on = callbacks;
  talks = await loadTalks();
  await listUnlisted();
  markOpen(talks.find(({ id }) => id === loadOpen()) ?? null);
  return shown;
}

/** A conversation from before there was a list becomes one of it, and is the one to go on with. */
async function listUnlisted() {
  const turns = await loadUnlisted();
  if (!turns.length) return;
  const talk = newTalk(turns[0].text || turns[0].media?.[0]?.name);
  await Promise.all([saveTalk(talk), ...turns.map((turn, k) => saveTurn(talk.id, k, turn))]);
  await dropUnlisted();
  saveOpen(talk.id);
}

function newTalk(title) {
  const talk = { id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, title: (title ?? "").slice(0, TITLE_LETTERS), time: Date.now() };
  talks.push(talk);
  return talk;
}

/** A new conversation, by the words that begin it. */
export function beginTalk(title) {
  markOpen(newTalk(title));
  return shown;
}

/** Moves a talk to the top of the list, as one in which something was just said. */
export function touchTalk(talk) {
  talk.time = Date.now();
  showTalks();
  return saveTalk(talk);
}

/** Whether a talk is still in the list. */
export const isListed = (talk) => talks.includes(talk);

export function markOpen(talk) {
  shown = talk;
  saveOpen(talk?.id);
  showTalks();
}

function showTalks() {
  const newest = [...talks].sort((a, b) => b.time - a.time);
  $("talks").replaceChildren(...newest.map(row));
  $("no-talks").hidden = talks.length > 0;
}

function row(talk) {
  const title = element("button", { type: "button", className: "title", textContent: talk.title, onclick: () => open(talk) });
  title.lang = "";
  if (talk === shown) title.setAttribute("aria-current", "true");
  const summary = label(element("summary", { textContent: "⋯" }), "talk_menu", { title: talk.title });
  const menu = element("details", { name: "talk" }, summary, element("div", { className: "menu" },
    choice("rename", () => rename(talk)), choice("delete", () => remove(talk))));
  return element("li", { className: "talk" }, title, menu);
}

const choice = (key, onclick) => say(element("button", { type: "button", className: "word", onclick }), key);

function open(talk) {
  $("side").hidePopover();
  on.open(talk);
}

async function rename(talk) {
  const title = await asked(talk, "rename");
  if (!title) return;
  talk.title = title.slice(0, TITLE_LETTERS);
  showTalks();
  await saveTalk(talk);
}

async function remove(talk) {
  if (!(await asked(talk, "delete"))) return;
  talks = talks.filter((other) => other !== talk);
  on.lost(talk);
  if (talk === shown) on.open(null);
  else showTalks();
  await dropTalk(talk.id);
}

/** The title that the dialog ends with; empty where the user calls it off. */
function asked(talk, what) {
  const dialog = $("talk-dialog");
  const { title } = $("talk-form").elements;
  say($("talk-dialog-title"), what === "rename" ? "rename" : "delete_really", { title: talk.title });
  say($("talk-done"), what);
  $("talk-title").hidden = what !== "rename";
  title.value = talk.title;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue === "done" ? title.value.trim() : "");
  });
}
