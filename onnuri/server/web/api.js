/* The server's chat route: a conversation to a request, and its stream to an answer that grows. Knows no element.
   A turn is {role, text, transcript, media}, an answer's turn has more: see `newAnswer`; that of two answers has both:
   see `newPair`. */

import { base64Of, bytesOf, endingOf } from "./media.js";

const SENT_TURNS = 6; // a small model knows no more of a conversation than its last sight
const FIELD = { image: "images", video: "videos", mesh: "meshes" };
const PART = { image: "image_url", video: "video_url", mesh: "mesh_url" };
export const OUTPUTS = ["text", "image", "audio", "video", "mesh"];

/** What the server says is wrong, in the words of people, and the code of it. */
export class ServerError extends Error {
  constructor({ words, message, code }) {
    super(words ?? message);
    this.code = code;
  }
}

/** The stream ended, and nobody had said so. */
export class CutError extends Error {}

/** Names of the models that the server has; none where it does not say. */
export async function modelsOf(key) {
  try {
    const response = await fetch("v1/models", { headers: headersOf(key) });
    return response.ok ? (await response.json()).data.map(({ id }) => id) : [];
  } catch {
    return [];
  }
}

/** What the server would read a file as: {kind, media_types, …}. Throws ServerError, in people's words, where it would not. */
export async function inspect(blob, key) {
  const body = new FormData();
  body.append("file", blob);
  const response = await fetch("v1/inspect", { method: "POST", headers: headersOf(key), body });
  if (!response.ok) throw await errorIn(response);
  return response.json();
}

/** What a request asks for. What is not set in `settings` is the model's own. */
export function wishesOf(settings) {
  const chosen = { seed: settings.seed, temperature: settings.temperature, top_p: settings.top_p,
    guidance: settings.guidance, language: settings.language };
  const given = Object.fromEntries(Object.entries(chosen).filter(([, value]) => value !== null && value !== ""));
  return { modalities: settings.outputs, ...given };
}

/** The body of a request to a model; null is the server's only one. */
export function requestOf(turns, wishes, model) {
  return { ...(model === null ? {} : { model }), messages: messagesOf(turns.map((turn) => answerBy(model, turn))),
    audio: { voice: "default", format: "pcm16" }, partial_images: 3, stream: true, stream_options: { include_usage: true }, ...wishes };
}

/** Of two answers that of the model, which is to go on from its own. */
const answerBy = (model, turn) => turn.answers?.find((answer) => answer.model === model) ?? turn.answers?.[0] ?? turn;

/** The last turns; of those before the last only the last thing to be seen, which is what the server looks at. A picture
 *  that was stopped half-way is not what anyone speaks about. */
function messagesOf(turns) {
  const recent = turns.slice(-SENT_TURNS);
  const last = recent.at(-1);
  const seen = recent.slice(0, -1).flatMap(mediaOf).filter(({ kind, unfinished }) => kind in FIELD && !unfinished).at(-1);
  return recent.map((turn) => messageOf(turn, turn === last ? turn.media : turn.media.filter((item) => item === seen)));
}

/** As the server reads them: an answer's by kind, however they arrived. */
const mediaOf = ({ role, media }) => (role === "user" ? media
  : Object.keys(FIELD).flatMap((kind) => media.filter((item) => item.kind === kind)));

function messageOf(turn, media) {
  if (turn.role === "user") return { role: "user", content: [...media.map(partOf), ...wordsOf(turn)] };
  const message = { role: "assistant", content: turn.text || turn.transcript || null };
  for (const item of media) (message[FIELD[item.kind]] ??= []).push(partOf(item));
  return message;
}

const wordsOf = (turn) => (turn.text ? [{ type: "text", text: turn.text }] : []);

function partOf(item) {
  if (item.kind === "audio") {
    return { type: "input_audio", input_audio: { data: base64Of(item.url), format: endingOf(item) } };
  }
  return { type: PART[item.kind], [PART[item.kind]]: { url: item.url } };
}

/** Chunks of the answer. Throws ServerError, CutError, TypeError without a server, AbortError when called off. */
export async function* ask(body, key, signal) {
  const headers = { "Content-Type": "application/json", ...headersOf(key) };
  const response = await fetch("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw await errorIn(response);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error);
    yield chunk;
  }
  throw new CutError();
}

/** Of every request: the key, and the page's language, in which the server says what goes wrong. */
const headersOf = (key) => ({ "Accept-Language": document.documentElement.lang, ...(key ? { Authorization: `Bearer ${key}` } : {}) });

async function errorIn(response) {
  try {
    return new ServerError((await response.json()).error);
  } catch {
    return new ServerError({ message: `${response.status} ${response.statusText}` });
  }
}

/** The data of server-sent events. https://html.spec.whatwg.org/multipage/server-sent-events.html */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const whole = (rest + value).split(/\r?\n\r?\n/);
    rest = whole.pop();
    for (const event of whole) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

/** An answer of which nothing has come yet. It counts as stopped until its end: a reload may come between. */
export const newAnswer = (model) => ({ role: "assistant", model, text: "", transcript: "", media: [], preview: null, usage: null,
  firstSeconds: null, seconds: null, error: null, stopped: true });

/** Answers of two models to one question, and what was asked of both. */
export const newPair = (models, asked) => ({ role: "pair", id: `${Date.now()}-${Math.random().toString(36).slice(2)}`, asked,
  answers: models.map(newAnswer) });

/** A turn's answers: one or two. */
export const answersOf = (turn) => turn.answers ?? [turn];

/** Takes a chunk into an answer. Returns the samples Int16Array that came with it, or null. */
export function take(answer, chunk) {
  answer.usage = chunk.usage ?? answer.usage;
  const delta = chunk.choices[0]?.delta ?? {};
  answer.text += delta.content ?? "";
  answer.transcript += delta.audio?.transcript ?? "";
  for (const kind of Object.keys(FIELD)) for (const part of delta[FIELD[kind]] ?? []) takePart(answer, kind, part);
  for (const { message } of delta.failures ?? []) (answer.failures ??= []).push(message); // the other media still come
  return delta.audio?.data ? samplesOf(delta.audio.data) : null;
}

function takePart(answer, kind, part) {
  const item = { kind, url: part[PART[kind]].url };
  item.name = `onnuri-${kind}.${endingOf(item)}`;
  const partial = "partial_image_index" in part;
  answer.preview = partial ? item : kind === "image" ? null : answer.preview;
  if (!partial) answer.media.push(item);
}

function samplesOf(base64) {
  const bytes = bytesOf(base64);
  return new Int16Array(bytes.buffer, 0, bytes.length >> 1);
}

/** Whether a chunk brings something to be seen or heard. */
export function brings(chunk) {
  const { content, audio, images, videos, meshes } = chunk.choices[0]?.delta ?? {};
  return Boolean(content || audio || images || videos || meshes);
}
