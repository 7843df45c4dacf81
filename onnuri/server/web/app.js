/* The page: a conversation with the server in text, pictures, sound, video and 3D. Here is what binds the parts:
   words.js (strings), store.js (what outlives a reload), talks.js (the list of conversations), settings.js, composer.js (the
   next message), api.js (the server), player.js (sound while it arrives), view.js (bubbles), solid.js (3D), pair.js and
   votes.js (two models beside each other). It knows no model and nothing of the network but this server's routes. */

import { CutError, ServerError, answersOf, ask, brings, modelsOf, newAnswer, newPair, requestOf, take, wishesOf } from "./api.js";
import { attach, notice, setBusy, showFormats, startComposer } from "./composer.js";
import { dataUri, wav } from "./media.js";
import { PairBubble } from "./pair.js";
import { PCM_HZ, Player } from "./player.js";
import { asked, openSettings, save, setServed, settings, startSettings } from "./settings.js";
import { calm } from "./solid.js";
import { dropTurns, loadTurns, saveTurn } from "./store.js";
import { beginTalk, isListed, markOpen, startTalks, touchTalk } from "./talks.js";
import { AnswerBubble, element, questionBubble } from "./view.js";
import { countVotes, downloadVotes, startVotes, vote, voteOn } from "./votes.js";
import { current, say, word } from "./words.js";

const $ = (id) => document.getElementById(id);
const player = new Player();
let talk = null; // the conversation that is open; null before its first message
let turns = []; // its
let examples = {};
let stopper = null; // of what is under way

startSettings({ language: showExamples, sound: (wanted) => wanted || player.stop(), key: knowServer });
startComposer({ send, stop: () => stopper?.abort(), changed: save, needsKey: () => openSettings("key") }, settings);
$("fresh-button").onclick = startFresh;
$("votes-button").onclick = downloadVotes;
document.addEventListener("play", ({ target }) => target.matches?.("audio") && player.stop(), true);
await restore();

async function restore() {
  const [open] = await Promise.all([startTalks({ open: openTalk, lost: (lost) => lost === talk && stopper?.abort() }), startVotes(),
    loadExamples()]);
  await openTalk(open);
  showVotes();
  await knowServer(); // last: whoever speaks sooner is answered by the first
  document.body.dataset.ready = "true";
}

async function startFresh() {
  await openTalk(null);
  $("message").focus();
}

/** Shows a conversation of the list; null is a new one, which is listed once something is said. */
async function openTalk(next) {
  stopper?.abort();
  player.stop();
  const found = next ? await loadTurns(next.id) : [];
  [talk, turns] = [next, found];
  markOpen(talk);
  notice();
  $("turns").replaceChildren();
  turns.forEach((turn, k) => (turn.role === "user" ? addQuestion(turn) : addReply(turn, turns[k - 1]).forEach((b) => b.end())));
  showEmpty();
  scrollTo(0, document.body.scrollHeight);
}

function showEmpty() {
  $("empty").hidden = turns.length > 0;
}

/** Sentences that were measured to come out right (benchmarks/page_examples.py writes them). */
async function loadExamples() {
  examples = await fetch("examples.json").then((response) => response.json()).catch(() => ({}));
  showExamples();
}

function showExamples() {
  $("examples").replaceChildren(...(examples[current()] ?? []).map((text) =>
    element("li", {}, element("button", { type: "button", textContent: text, onclick: () => send(text, []) }))));
}

function use(item) {
  attach(item);
  notice("used", { kind: `@${item.kind}` });
  $("message").focus();
}

async function copy(text) {
  await navigator.clipboard.writeText(text).catch(() => copyByHand(text)); // not given to pages without TLS
  notice("copied");
}

function copyByHand(text) {
  const box = element("textarea", { value: text });
  document.body.append(box);
  box.select();
  document.execCommand("copy");
  box.remove();
}

function addQuestion(turn) {
  $("turns").append(questionBubble(turn, { use, copy, edit: (text) => redo(turn, text) }));
}

/** The bubbles of a turn's answers. */
function addReply(turn, question) {
  const about = question?.text || answersOf(turn)[0].transcript || answersOf(turn)[0].text;
  const again = () => redo(question, question.text);
  const another = () => redo(question, question.text, { seed: randomSeed() }); // the settings' seed would say the same once more
  const on = { use, copy, again, another, key: (key) => { useKey(key); again(); } };
  if (!turn.answers) return [add(new AnswerBubble(turn, about, on))];
  const voting = { voted: () => voteOn(turn), vote: (choice) => { vote(turn, question, choice); showVotes(); } };
  return add(new PairBubble(turn, about, { ...on, ...voting }, (turns.indexOf(turn) + 1) / 2)).columns;
}

const randomSeed = () => Math.floor(Math.random() * 2 ** 31);

/** Asks a question anew, perhaps in other words; it and what came after it are taken back. */
async function redo(question, text, chosen) {
  if (stopper) return;
  const from = turns.indexOf(question);
  turns.splice(from);
  [...$("turns").children].slice(from).forEach((bubble) => bubble.remove());
  await dropTurns(talk.id, from);
  await send(text, question.media, chosen);
}

function useKey(key) {
  settings.key = key;
  save();
  knowServer();
}

function add(bubble) {
  $("turns").append(bubble.root);
  return bubble;
}

/** Adds the user's turn and streams the answer to it, or two. `chosen` goes before the settings. */
async function send(text, media, chosen = {}) {
  if (stopper) return;
  const mine = turns;
  talk ??= beginTalk(text || media[0].name);
  const here = talk;
  const models = asked();
  const wishes = { ...wishesOf(settings), ...chosen };
  if (models.length > 1) wishes.seed ??= randomSeed(); // one for both
  const question = { role: "user", text, transcript: "", media };
  const reply = models.length > 1 ? newPair(models, wishes) : newAnswer(models[0]);
  mine.push(question, reply);
  showEmpty();
  addQuestion(question);
  const bubbles = addReply(reply, question);
  bubbles.forEach((bubble) => bubble.expect(settings.outputs));
  follow(true);
  stopper = new AbortController();
  setBusy(true);
  const at = mine.length - 1;
  await Promise.all([touchTalk(here), saveTurn(here.id, at - 1, question), saveTurn(here.id, at, reply)]);
  player.stop();
  const voices = player.inTurn(bubbles.length);
  await Promise.all(answersOf(reply).map(async (answer, k) => {
    await stream(requestOf(mine.slice(0, -1), wishes, answer.model), answer, bubbles[k], voices[k], stopper.signal);
    bubbles[k].end();
    if (mine === turns) follow(Boolean(answer.error));
    if (isListed(here)) await saveTurn(here.id, at, reply);
  }));
  stopper = null;
  setBusy(false);
  if (mine === turns) announce(answersOf(reply));
}

/** Fills an answer while it arrives; what goes wrong becomes its error. */
async function stream(request, answer, bubble, voice, signal) {
  const began = performance.now();
  const since = () => (performance.now() - began) / 1000;
  const samples = [];
  try {
    for await (const chunk of ask(request, settings.key, signal)) {
      if (brings(chunk)) answer.firstSeconds ??= since();
      hear(take(answer, chunk), samples, bubble, voice);
      bubble.update();
      follow();
    }
    answer.stopped = false;
  } catch (error) {
    answer.error = problemOf(error, answer, signal);
    if (signal.aborted) player.stop();
  }
  voice.end();
  answer.seconds = since();
  await keep(answer, samples);
}

function hear(heard, samples, bubble, voice) {
  if (!heard) return;
  if (!samples.length) bubble.speaking();
  samples.push(heard);
  if (settings.autoplay) voice.push(heard);
}

/** What came, as items: the sound as a file, and a picture that was not finished as far as it is. */
async function keep(answer, samples) {
  if (answer.preview) answer.media.push({ ...answer.preview, unfinished: true });
  answer.preview = null;
  if (!samples.length) return;
  const whole = new Int16Array(await new Blob(samples).arrayBuffer());
  answer.media.push({ kind: "audio", url: await dataUri(wav(whole, PCM_HZ)), name: "onnuri-audio.wav" });
}

/** An error to show; null where the user stopped the answer. */
function problemOf(error, answer, signal) {
  if (signal.aborted) return null;
  if (error instanceof ServerError) return error.problem;
  if (!(error instanceof CutError || error instanceof TypeError)) console.error(error); // no fault of the network
  return { key: answer.firstSeconds === null ? "error_network" : "error_cut" };
}

/** Read out once, when all is there: an answer that grows would be read over and over. */
function announce(answers) {
  const came = answers.filter(({ error }) => !error);
  if (!came.length) return;
  const stopped = came.some((answer) => answer.stopped);
  say($("announcer"), stopped ? "announce_stopped" : "arrived", { what: came.map(inWords).join(". ") });
}

const inWords = ({ model, notices = [], text, transcript, media }) =>
  [model, ...notices.map(({ message }) => message), text || transcript, ...media.map(({ kind }) => word(kind))].filter(Boolean).join(", ");

function showVotes() {
  say($("votes-button"), "votes", { count: countVotes() }).hidden = !countVotes();
}

async function knowServer() {
  const [models] = await Promise.all([modelsOf(settings.key), showFormats()]);
  setServed(models);
}

/** Keeps the newest in sight, unless the user has scrolled away from it. */
function follow(always = false) {
  const away = document.body.scrollHeight - innerHeight - scrollY;
  if (always || away < 400) scrollTo({ top: document.body.scrollHeight, behavior: calm ? "instant" : "smooth" });
}
