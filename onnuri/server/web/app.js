/* The page: a conversation with the server in text, pictures, sound, video and 3D. Here is what binds the parts:
   words.js (strings), store.js (what outlives a reload), settings.js, composer.js (the next message), api.js (the
   server), player.js (sound while it arrives), view.js (bubbles), pair.js and votes.js (two models beside each other). It
   knows no model and nothing of the network but this server's routes. */

import { CutError, ServerError, answersOf, ask, brings, modelsOf, newAnswer, newPair, requestOf, take, wishesOf } from "./api.js";
import { attach, notice, setBusy, startComposer } from "./composer.js";
import { dataUri, wav } from "./media.js";
import { PairBubble } from "./pair.js";
import { PCM_HZ, Player } from "./player.js";
import { asked, save, setServed, settings, startSettings } from "./settings.js";
import { clearTurns, loadTurns, saveTurn } from "./store.js";
import { AnswerBubble, calm, element, questionBubble } from "./view.js";
import { countVotes, downloadVotes, startVotes, vote, voteOn } from "./votes.js";
import { EXAMPLES, current, say, word } from "./words.js";

const $ = (id) => document.getElementById(id);
const player = new Player();
let turns = [];
let stopper = null; // of what is under way

startSettings({ language: showExamples, sound: (wanted) => wanted || player.stop(), key: findModels });
startComposer({ send, stop: () => stopper?.abort(), changed: save }, settings);
$("fresh-button").onclick = startFresh;
$("votes-button").onclick = downloadVotes;
document.addEventListener("play", ({ target }) => target.matches?.("audio") && player.stop(), true);
showExamples();
await restore();

async function restore() {
  [turns] = await Promise.all([loadTurns(), startVotes()]);
  turns.forEach((turn, k) => (turn.role === "user" ? addQuestion(turn) : addReply(turn, turns[k - 1]).forEach((b) => b.end())));
  showVotes();
  showEmpty();
  scrollTo(0, document.body.scrollHeight);
  await findModels(); // last: whoever speaks sooner is answered by the first
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

/** The bubbles of a turn's answers. */
function addReply(turn, question) {
  const about = question?.text || answersOf(turn)[0].transcript || answersOf(turn)[0].text;
  const on = { use, again: () => stopper || send(question.text, question.media) };
  if (!turn.answers) return [add(new AnswerBubble(turn, about, on))];
  const voting = { voted: () => voteOn(turn), vote: (choice) => { vote(turn, question, choice); showVotes(); } };
  return add(new PairBubble(turn, about, { ...on, ...voting }, (turns.indexOf(turn) + 1) / 2)).columns;
}

function add(bubble) {
  $("turns").append(bubble.root);
  return bubble;
}

/** Adds the user's turn and streams the answer to it, or two. */
async function send(text, media) {
  if (stopper) return;
  const mine = turns;
  const models = asked();
  const wishes = wishesOf(settings);
  if (models.length > 1) wishes.seed ??= Math.floor(Math.random() * 2 ** 31); // one for both
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
  await Promise.all([saveTurn(question, mine.length - 2), saveTurn(reply, mine.length - 1)]);
  player.stop();
  const voices = player.inTurn(bubbles.length);
  await Promise.all(answersOf(reply).map(async (answer, k) => {
    await stream(requestOf(mine.slice(0, -1), wishes, answer.model), answer, bubbles[k], voices[k], stopper.signal);
    if (mine === turns) await finish(reply, bubbles[k]);
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

/** An error to show, in the server's words or as a key of ours; null where the user stopped the answer. */
function problemOf(error, answer, signal) {
  if (signal.aborted) return null;
  if (error instanceof ServerError) return error.message;
  if (!(error instanceof CutError || error instanceof TypeError)) console.error(error); // no fault of the network
  return { key: answer.firstSeconds === null ? "error_network" : "error_cut" };
}

async function finish(reply, bubble) {
  bubble.end();
  follow();
  await saveTurn(reply, turns.indexOf(reply));
}

/** Read out once, when all is there: an answer that grows would be read over and over. */
function announce(answers) {
  const came = answers.filter(({ error }) => !error);
  if (!came.length) return;
  const stopped = came.some((answer) => answer.stopped);
  say($("announcer"), stopped ? "announce_stopped" : "arrived", { what: came.map(inWords).join(". ") });
}

const inWords = ({ model, text, transcript, media }) =>
  [model, text || transcript, ...media.map(({ kind }) => word(kind))].filter(Boolean).join(", ");

function showVotes() {
  say($("votes-button"), "votes", { count: countVotes() }).hidden = !countVotes();
}

async function findModels() {
  setServed(await modelsOf(settings.key));
}

/** Keeps the newest in sight, unless the user has scrolled away from it. */
function follow(always = false) {
  const away = document.body.scrollHeight - innerHeight - scrollY;
  if (always || away < 400) scrollTo({ top: document.body.scrollHeight, behavior: calm ? "instant" : "smooth" });
}
