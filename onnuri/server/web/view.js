/* Turns as elements: bubbles, media, and what can be done with them. Knows no server and no composer: what a button does
   beyond the page's own things is given by `on`. */

import { download } from "./media.js";
import { calm, showFront, sideNote, solid } from "./solid.js";
import { label, languageOf, say } from "./words.js";

const DRAWN = ["image", "video", "mesh"];
const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  svg.firstChild.setAttribute("href", `#icon-${name}`);
  return svg;
}

export function iconButton(name, key, values, onclick) {
  return label(element("button", { type: "button", className: "icon small", onclick }, icon(name)), key, values);
}

/** Puts an icon and a short word into a button. */
export function dress(button, name, key) {
  button.replaceChildren(icon(name), say(element("span"), key));
}

/** A button that is a word; its name, where that has more to say, begins with or holds the word. */
export function wordButton(key, values, onclick, short = key) {
  const button = element("button", { type: "button", className: "word", onclick }, say(element("span"), short));
  return short === key ? button : label(button, key, values);
}

/** What the user said. `on.edit` takes its new words. */
export function questionBubble(turn, on) {
  const bubble = element("li", { className: "turn user" }, say(element("span", { className: "unseen" }), "you"));
  bubble.dataset.testid = "question";
  if (turn.media.length) bubble.append(element("div", { className: "tiles" }, ...turn.media.map((item) => tile(item, item.name, on))));
  if (!turn.text) return bubble;
  const text = words(turn.text);
  const doings = element("div", { className: "doings" }, wordButton("copy", {}, () => on.copy(turn.text)));
  const edit = wordButton("edit", {}, () => { text.hidden = doings.hidden = true; bubble.append(editor(turn.text, on.edit, stop)); });
  const stop = () => { text.hidden = doings.hidden = false; bubble.lastChild.remove(); edit.focus(); };
  edit.classList.add("redo-any");
  doings.append(edit);
  bubble.append(text, doings);
  return bubble;
}

/** A box with words to be changed; `send` takes them, `stop` ends it without. */
function editor(text, send, stop) {
  const box = label(element("textarea", { value: text, rows: 3 }), "edit_box");
  const form = element("form", { className: "editor" }, box, say(element("p", { className: "mark" }), "edit_lost"),
    element("div", { className: "doings" }, say(element("button", { type: "button", className: "plain", onclick: stop }), "cancel"),
      say(element("button", { className: "plain main" }), "edit_send")));
  form.onsubmit = (event) => { event.preventDefault(); if (box.value.trim()) send(box.value.trim()); };
  form.onkeydown = (event) => { if (event.key === "Escape") stop(); };
  setTimeout(() => box.focus());
  return form;
}

function noticeLine(message) {
  const line = element("p", { className: "heads-up", lang: languageOf(message), textContent: message });
  line.dataset.testid = "notice";
  return line;
}

function words(text) {
  return element("p", { className: "words", lang: languageOf(text), textContent: text });
}

/** An answer as it grows: `update` shows what has come, `end` how it ended. One of two is a region, named by its model and
 *  the `number` of the pair. */
export class AnswerBubble {
  #turn; #on; #about; #head;
  #shown = new Map(); // kind → the url that its tile shows
  #notices = element("div");
  #text = element("p", { className: "words", hidden: true });
  #sound = element("div", { hidden: true });
  #tiles = element("div", { className: "tiles" });
  #foot = element("div");

  constructor(turn, about, on, number) {
    [this.#turn, this.#about, this.#on] = [turn, about, on];
    this.#text.dataset.testid = "answer-text";
    this.#head = number ? element("div", { className: "head" }, element("h2", { textContent: turn.model }))
      : say(element("span", { className: "unseen" }), "answer");
    this.root = element(number ? "section" : "li", { className: "turn answer" }, this.#head, this.#notices, this.#text,
      this.#sound, this.#tiles, this.#foot);
    if (number) label(this.root, "column", { number, model: turn.model });
    this.root.dataset.testid = "answer";
  }

  /** Shows where media will be that are wanted. */
  expect(outputs) {
    this.root.dataset.state = "streaming";
    for (const kind of DRAWN.filter((k) => outputs.includes(k))) this.#tiles.append(waiting(kind));
    if (outputs.includes("audio")) this.#setSound(say(element("p", { className: "speaking" }), "waiting_audio"));
  }

  update() {
    this.#setNotices();
    this.#setText();
    const { media, preview } = this.#turn;
    for (const item of [...(preview ? [preview] : []), ...media.filter((m) => DRAWN.includes(m.kind))]) this.#show(item);
  }

  speaking() {
    this.#setSound(say(element("p", { className: "speaking" }), "speaking"));
  }

  /** What is final: everything that came, marks, figures. */
  end() {
    const { media, stopped, error, transcript, text } = this.#turn;
    this.update();
    this.#tiles.querySelectorAll(".waiting").forEach((element) => element.remove());
    const sound = media.find((item) => item.kind === "audio");
    this.#sound.hidden = !sound;
    if (sound) this.#setSound(soundFigure(sound, transcript === text ? "" : transcript, this.#on));
    this.#foot.replaceChildren(...this.#marks(), this.#doings());
    if (this.#head.matches(".head")) this.#head.append(...usageLine(this.#turn));
    else this.#foot.append(...modelLine(this.#turn), ...usageLine(this.#turn));
    this.root.dataset.state = error ? "error" : stopped ? "stopped" : "done";
    this.#on.ended?.();
  }

  #marks() {
    const { media, failures = [], stopped, error, text } = this.#turn;
    if (error) return [problem(error, this.#on)];
    if (stopped) return [mark("stopped")];
    if (failures.length) return failures.map((failure) => problem(failure, this.#on));
    return text || media.length ? [] : [mark("nothing")];
  }

  /** What can be done with the answer; asked anew only where nothing came after it. */
  #doings() {
    const { error, stopped, text, transcript } = this.#turn;
    const row = element("div", { className: "doings" });
    const said = text || transcript;
    if (said) row.append(wordButton("copy", {}, () => this.#on.copy(said)));
    const again = error || stopped ? wordButton("again", {}, () => this.#on.again()) : wordButton("another", {}, () => this.#on.another());
    again.classList.add("redo");
    if (error || stopped || !this.#head.matches(".head")) row.append(again); // of two answers, the pair has the button
    return row;
  }

  #setNotices() {
    const { notices = [] } = this.#turn;
    this.#notices.append(...notices.slice(this.#notices.childElementCount).map(({ message }) => noticeLine(message)));
  }

  #setText() {
    const { text } = this.#turn;
    Object.assign(this.#text, { textContent: text, lang: languageOf(text), hidden: !text });
  }

  #setSound(content) {
    this.#sound.replaceChildren(content);
    this.#sound.hidden = false;
  }

  #show(item) {
    if (this.#shown.get(item.kind) === item.url) return;
    this.#shown.set(item.kind, item.url);
    const old = [...this.#tiles.children].find((t) => t.dataset.kind === item.kind);
    const made = tile(item, this.#about, this.#on);
    if (old) old.replaceWith(made);
    else this.#tiles.append(made);
  }
}

function waiting(kind) {
  const made = element("div", { className: "tile waiting" }, say(element("p"), `waiting_${kind}`));
  made.dataset.kind = kind;
  return made;
}

/** A medium with its buttons. */
function tile(item, about, on) {
  const view = shown(item, about);
  if (view.matches("img")) view.onclick = () => enlarge(item, about);
  const figure = element("figure", { className: "tile" }, view, ...sideNotes(view), buttons(item, on, view, about));
  figure.dataset.kind = item.kind;
  figure.dataset.testid = `media-${item.kind}`;
  return figure;
}

const sideNotes = (view) => (view.matches("model-viewer") ? [sideNote(view)] : []);

function buttons(item, on, view, about) {
  const values = { kind: `@${item.kind}` };
  const more = [];
  if (view.matches("model-viewer")) more.push(wordButton("front", {}, () => showFront(view), "front_short"));
  if (!view.matches("audio, .file")) more.push(wordButton("enlarge", values, () => enlarge(item, about), "enlarge_short"));
  return element("figcaption", { className: "actions" }, say(element("span", { className: "kind" }), item.kind), ...more,
    wordButton("use", values, () => on.use(item), "use_short"), wordButton("download", values, () => download(item), "download_short"));
}

/** Shows an item as large as the window, until it is closed: by its button, Escape or a click beside it. */
function enlarge(item, about) {
  const dialog = $("enlarged");
  const view = shown(item, about);
  const front = view.matches("model-viewer") ? [wordButton("front", {}, () => showFront(view), "front_short")] : [];
  $("enlarged-item").replaceChildren(view, ...sideNotes(view), ...front);
  dialog.onclose = () => $("enlarged-item").replaceChildren();
  dialog.onclick = ({ target }) => target === dialog && dialog.close();
  dialog.showModal();
}

/** The element that shows or plays an item. `about` says in words what is to be seen. */
export function shown(item, about) {
  if (item.url.startsWith("data:image/")) return element("img", { src: item.url, alt: about }); // a GIF is a video, and an <img>
  if (item.kind === "audio") return named(element("audio", { src: item.url, controls: true }), about);
  return item.kind === "video" ? video(item, about) : solid(item, about);
}

function video(item, about) {
  const made = element("video", { src: item.url, controls: true, loop: true, muted: true, playsInline: true, autoplay: !calm });
  return named(made, about);
}

function named(made, about) {
  made.setAttribute("aria-label", about);
  return made;
}

function soundFigure(item, transcript, on) {
  const said = transcript ? [words(transcript)] : [];
  const view = shown(item, transcript || item.name);
  const figure = element("figure", { className: "sound" }, view, buttons(item, on, view, ""), ...said);
  figure.dataset.testid = "media-audio";
  return figure;
}

/** What went wrong, {words or key, values, message, needsKey}: for people, with the server's own words folded below it and,
 *  where a key is missing, a box for it. */
function problem(about, on) {
  const { words: told, key, values, message, needsKey } = typeof about === "string" ? { words: about } : about; // a string: kept before
  const line = element("p", told ? { textContent: told } : {});
  line.setAttribute("role", "alert");
  const box = element("div", { className: "problem" }, told ? line : say(line, key, values));
  if (message && message !== told) box.append(folded("reason", element("p", { lang: "en", textContent: message })));
  if (needsKey) box.append(keyForm(on));
  return box;
}

const folded = (key, ...content) => element("details", {}, say(element("summary"), key), ...content);

function keyForm(on) {
  const input = element("input", { type: "password", name: "key", autocomplete: "off", required: true });
  const form = element("form", { className: "key" }, element("label", {}, say(element("span"), "key_box"), input),
    say(element("button", { className: "plain main" }), "key_use"));
  form.onsubmit = (event) => { event.preventDefault(); on.key(input.value.trim()); };
  return form;
}

const mark = (key) => say(element("p", { className: "mark" }), key);

/** Who answered, where it could have been another. */
const modelLine = ({ model }) => (model ? [element("p", { className: "usage", textContent: model })] : []);

/** Tokens by medium and times; of an answer that was stopped, its time; of one that failed, nothing. */
function usageLine({ usage, firstSeconds, seconds, error }) {
  if (error || seconds === null) return [];
  const line = element("p");
  const total = seconds.toFixed(2);
  const box = Object.assign(folded("details", line), { className: "usage" });
  box.dataset.testid = "usage";
  if (!usage) say(line, "times", { total });
  else say(line, "usage", { given: counts(usage.prompt_tokens_details), made: counts(usage.completion_tokens_details),
    first: (firstSeconds ?? seconds).toFixed(2), total });
  return [box];
}

function counts(details) {
  const kinds = ["text", "image", "audio", "video", "mesh"].filter((kind) => details[`${kind}_tokens`]);
  return kinds.map((kind) => `@${kind} ${details[`${kind}_tokens`]}`).join(", ") || "0";
}
