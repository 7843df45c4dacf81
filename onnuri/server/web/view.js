/* Turns as elements: bubbles, media, and what can be done with them. Knows no server and no composer: what a button does
   beyond the page's own things is given by `on`. */

import { download, isGlb } from "./media.js";
import { label, languageOf, say } from "./words.js";

const DRAWN = ["image", "video", "mesh"];
export const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

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

/** What the user said. */
export function questionBubble(turn, on) {
  const bubble = element("li", { className: "turn user" }, say(element("span", { className: "unseen" }), "you"));
  bubble.dataset.testid = "question";
  if (turn.media.length) bubble.append(element("div", { className: "tiles" }, ...turn.media.map((item) => tile(item, item.name, on))));
  if (turn.text) bubble.append(words(turn.text));
  return bubble;
}

function words(text) {
  return element("p", { className: "words", lang: languageOf(text), textContent: text });
}

/** An answer as it grows: `update` shows what has come, `end` how it ended. One of two is a region, named by its model and
 *  the `number` of the pair. */
export class AnswerBubble {
  #turn; #on; #about; #head;
  #shown = new Map(); // kind → the url that its tile shows
  #text = element("p", { className: "words", hidden: true });
  #sound = element("div", { hidden: true });
  #tiles = element("div", { className: "tiles" });
  #foot = element("div");

  constructor(turn, about, on, number) {
    [this.#turn, this.#about, this.#on] = [turn, about, on];
    this.#text.dataset.testid = "answer-text";
    this.#head = number ? element("div", { className: "head" }, element("h2", { textContent: turn.model }))
      : say(element("span", { className: "unseen" }), "answer");
    this.root = element(number ? "section" : "li", { className: "turn answer" }, this.#head, this.#text, this.#sound, this.#tiles,
      this.#foot);
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
    this.#foot.replaceChildren(...this.#marks(), ...this.#again());
    if (this.#head.matches(".head")) this.#head.append(...usageLine(this.#turn));
    else this.#foot.append(...modelLine(this.#turn), ...usageLine(this.#turn));
    this.root.dataset.state = error ? "error" : stopped ? "stopped" : "done";
    this.#on.ended?.();
  }

  #marks() {
    const { media, failures = [], stopped, error, text } = this.#turn;
    if (error) return [problem(error)];
    if (stopped) return [mark("stopped")];
    if (failures.length) return failures.map(problem);
    return text || media.length ? [] : [mark("nothing")];
  }

  #again() {
    const { error, stopped } = this.#turn;
    if (!(error || stopped)) return [];
    return [say(element("button", { type: "button", className: "plain", onclick: () => this.#on.again(this.#turn) }), "again")];
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
  const figure = element("figure", { className: "tile" }, shown(item, about), buttons(item, on));
  figure.dataset.kind = item.kind;
  figure.dataset.testid = `media-${item.kind}`;
  return figure;
}

function buttons(item, on) {
  const values = { kind: `@${item.kind}` };
  return element("figcaption", { className: "actions" }, say(element("span", { className: "kind" }), item.kind),
    iconButton("use", "use", values, () => on.use(item)), iconButton("download", "download", values, () => download(item)));
}

/** The element that shows or plays an item. `about` says in words what is to be seen. */
export function shown(item, about) {
  if (item.url.startsWith("data:image/")) return element("img", { src: item.url, alt: about }); // a GIF is a video, and an <img>
  if (item.kind === "audio") return named(element("audio", { src: item.url, controls: true }), about);
  if (item.kind === "video") return video(item, about);
  return isGlb(item) ? model(item, about) : file(item);
}

/** Of what the browser cannot show. */
const file = (item) => element("div", { className: "file" }, icon("mesh"), element("span", { textContent: item.name }));

function video(item, about) {
  const made = element("video", { src: item.url, controls: true, loop: true, muted: true, playsInline: true, autoplay: !calm });
  return named(made, about);
}

function named(made, about) {
  made.setAttribute("aria-label", about);
  return made;
}

function model(item, about) {
  loadViewer();
  const made = document.createElement("model-viewer");
  const settings = { src: item.url, alt: about, "camera-controls": "", "touch-action": "pan-y", "interaction-prompt": "none",
    "camera-orbit": "0deg 75deg 105%", ...(calm ? {} : { "auto-rotate": "" }) };
  for (const [name, value] of Object.entries(settings)) made.setAttribute(name, value);
  made.addEventListener("error", () => made.replaceWith(file(item)));
  return made;
}

/** One megabyte, so only once there is something to view. */
function loadViewer() {
  if (!document.querySelector("#viewer")) document.head.append(element("script", { id: "viewer", src: "model-viewer-umd.min.js" }));
}

function soundFigure(item, transcript, on) {
  const said = transcript ? [words(transcript)] : [];
  const figure = element("figure", { className: "sound" }, shown(item, transcript || item.name), buttons(item, on), ...said);
  figure.dataset.testid = "media-audio";
  return figure;
}

function problem(message) {
  const line = element("p", { className: "problem" });
  line.setAttribute("role", "alert");
  if (message.key) return say(line, message.key);
  line.textContent = message;
  return line;
}

const mark = (key) => say(element("p", { className: "mark" }), key);

/** Who answered, where it could have been another. */
const modelLine = ({ model }) => (model ? [element("p", { className: "usage", textContent: model })] : []);

/** Tokens by medium and times; of an answer that was stopped, its time; of one that failed, nothing. */
function usageLine({ usage, firstSeconds, seconds, error }) {
  if (error || seconds === null) return [];
  const line = element("p", { className: "usage" });
  line.dataset.testid = "usage";
  const total = seconds.toFixed(2);
  if (!usage) return [say(line, "times", { total })];
  return [say(line, "usage", { given: counts(usage.prompt_tokens_details), made: counts(usage.completion_tokens_details),
    first: (firstSeconds ?? seconds).toFixed(2), total })];
}

function counts(details) {
  const kinds = ["text", "image", "audio", "video", "mesh"].filter((kind) => details[`${kind}_tokens`]);
  return kinds.map((kind) => `@${kind} ${details[`${kind}_tokens`]}`).join(", ") || "0";
}
