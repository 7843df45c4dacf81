/* The page: a conversation with the server in text, pictures, sound, video and 3D. Here is what binds the parts:
   words.js (strings), store.js (what outlives a reload), settings.js, composer.js (the next message), api.js (the
   server), player.js (sound while it arrives), view.js (bubbles). It knows no model and nothing of the network but
   this server's routes. */

import { CutError, ServerError, ask, brings, newAnswer, requestOf, take } from "./api.js";
import { attach, notice, setBusy, startComposer } from "./composer.js";
import { dataUri, wav } from "./media.js";
import { PCM_HZ, Player } from "./player.js";
import { save, settings, startSettings } from "./settings.js";
import { clearTurns, loadTurns, saveTurn } from "./store.js";
import { AnswerBubble, calm, element, questionBubble } from "./view.js";
import { EXAMPLES, current, say, word } from "./words.js";

const $ = (id) => document.getElementById(id);
const player = new Player();
let turns = [];
let stopper = null; // of the answer that is under way

startSettings({ language: showExamples, sound: (wanted) => wanted || player.stop() });
startComposer({ send, stop: () => stopper?.abort(), changed: save }, settings);
$("fresh-button").onclick = startFresh;
document.addEventListener("play", ({ target }) => target.matches?.("audio") && player.stop(), true);
showExamples();
await restore();

async function restore() {
  turns = await loadTurns();
  turns.forEach((turn, k) => (turn.role === "user" ? addQuestion(turn) : addAnswer(turn, turns[k - 1]).end()));
  showEmpty();
  scrollTo(0, document.body.scrollHeight);
  document.body.dataset.ready = "true";
}

async function startFresh() {
  stopper?.abort();
  player.stop();
  turns = [];
  $("turns").replaceChildren();
  notice();
  showEmpty();
  $("message").focus();
  await clearTurns();
}

function showEmpty() {
  $("empty").hidden = turns.length > 0;
}

function showExamples() {
  $("examples").replaceChildren(...EXAMPLES[current()].map((text) =>
    element("li", {}, element("button", { type: "button", textContent: text, onclick: () => send(text, []) }))));
}

function use(item) {
  attach(item);
  notice("used", { kind: `@${item.kind}` });
  $("message").focus();
}

function addQuestion(turn) {
  $("turns").append(questionBubble(turn, { use }));
}

function addAnswer(turn, question) {
  const again = () => stopper || send(question.text, question.media);
  const bubble = new AnswerBubble(turn, question?.text || turn.transcript || turn.text, { use, again });
  $("turns").append(bubble.root);
  return bubble;
}

/** Adds the user's turn and streams the answer to it. */
async function send(text, media) {
  if (stopper) return;
  const mine = turns;
  const question = { role: "user", text, transcript: "", media };
  const answer = newAnswer();
  mine.push(question, answer);
  showEmpty();
  addQuestion(question);
  const bubble = addAnswer(answer, question);
  bubble.expect(settings.outputs);
  follow(true);
  stopper = new AbortController();
  setBusy(true);
  await Promise.all([saveTurn(question, mine.length - 2), saveTurn(answer, mine.length - 1)]);
  const request = requestOf(mine.slice(0, -1), settings);
  await stream(request, answer, bubble, stopper.signal);
  stopper = null;
  setBusy(false);
  if (mine === turns) await finish(answer, bubble);
}

/** Fills the answer while it arrives; what goes wrong becomes its error. */
async function stream(request, answer, bubble, signal) {
  const began = performance.now();
  const since = () => (performance.now() - began) / 1000;
  const samples = [];
  player.stop();
  try {
    for await (const chunk of ask(request, settings.key, signal)) {
      if (brings(chunk)) answer.firstSeconds ??= since();
      hear(take(answer, chunk), samples, bubble);
      bubble.update();
      follow();
    }
    answer.stopped = false;
  } catch (error) {
    answer.error = problemOf(error, answer, signal);
    player.stop();
  }
  answer.seconds = since();
  await keep(answer, samples);
}

function hear(heard, samples, bubble) {
  if (!heard) return;
  if (!samples.length) bubble.speaking();
  samples.push(heard);
  if (settings.autoplay) player.push(heard);
}

/** What came, as items: the sound as a file, and a picture that was not finished as far as it is. */
async function keep(answer, samples) {
  if (answer.preview) answer.media.push({ ...answer.preview, unfinished: true });
  answer.preview = null;
  if (!samples.length) return;
  const whole = new Int16Array(await new Blob(samples).arrayBuffer());
  answer.media.push({ kind: "audio", url: await dataUri(wav(whole, PCM_HZ)), name: "onnuri-audio.wav" });
}

/** An error to show, in the server's words or as a key of ours; null where the user stopped the answer. */
function problemOf(error, answer, signal) {
  if (signal.aborted) return null;
  if (error instanceof ServerError) return error.message;
  if (!(error instanceof CutError || error instanceof TypeError)) console.error(error); // no fault of the network
  return { key: answer.firstSeconds === null ? "error_network" : "error_cut" };
}

async function finish(answer, bubble) {
  bubble.end();
  follow();
  if (!answer.error) announce(answer);
  await saveTurn(answer, turns.indexOf(answer));
}

/** Read out once, when all is there: an answer that grows would be read over and over. */
function announce({ stopped, text, transcript, media }) {
  const what = [text || transcript, ...media.map(({ kind }) => word(kind))].filter(Boolean).join(", ");
  say($("announcer"), stopped ? "announce_stopped" : "arrived", { what });
}

/** Keeps the newest in sight, unless the user has scrolled away from it. */
function follow(always = false) {
  const away = document.body.scrollHeight - innerHeight - scrollY;
  if (always || away < 400) scrollTo({ top: document.body.scrollHeight, behavior: calm ? "instant" : "smooth" });
}
