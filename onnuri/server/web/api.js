/* The server's chat route: a conversation to a request, and its stream to an answer that grows. Knows no element.
   A turn is {role, text, transcript, media}, an answer's turn has more: see `newAnswer`; that of two answers has both:
   see `newPair`. */

import { base64Of, bytesOf, endingOf } from "./media.js";

const FORMATS = "v1/formats";
const INSPECT = "v1/inspect";
const SENT_TURNS = 6; // a small model knows no more of a conversation than its last sight
const FIELD = { image: "images", video: "videos", mesh: "meshes" };
const PART = { image: "image_url", video: "video_url", mesh: "mesh_url" };
export const OUTPUTS = ["text", "image", "audio", "video", "mesh"];

/** What is wrong where the server says no words for people (an older one, or a proxy before it), as keys of ours. */
const BY_CODE = { invalid_api_key: "error_key", rate_limit_exceeded: "error_minute", server_busy: "error_busy", busy: "error_busy",
  shutting_down: "error_away", unavailable: "error_away", timeout: "error_slow", body_too_large: "error_body",
  internal_error: "error_server" };
const BY_STATUS = { 401: "error_key", 413: "error_body", 429: "error_busy", 503: "error_away", 504: "error_slow" };

/** What the server says is wrong: `message` for programmers and, of a newer server, `words` for people. */
export class ServerError extends Error {
  constructor({ message, words, code }, status) {
    super(message);
    const key = BY_CODE[code] ?? BY_STATUS[status] ?? (status >= 500 ? "error_server" : "error_other");
    this.problem = { words, key, message, needsKey: key === "error_key" };
    this.code = code;
    this.status = status;
  }
}

/** The stream ended, and nobody had said so. */
export class CutError extends Error {}

/** The models that the server has, {name, asks}; none where it does not say. One that `asks` others chooses among them. */
export async function modelsOf(key) {
  try {
    const response = await fetch("v1/models", { headers: headersOf(key) });
    return response.ok ? (await response.json()).data.map(({ id, asks = null }) => ({ name: id, asks })) : [];
  } catch {
    return [];
  }
}

/** Endings of the files that the server reads, as `accept` of a file input has them; without its word, those of `known`. */
export async function endingsRead(key, known) {
  try {
    const response = await fetch(FORMATS, { headers: headersOf(key) });
    return response.ok ? (await response.json()).data.flatMap(({ suffixes }) => suffixes) : known;
  } catch {
    return known;
  }
}

/** What the server would read a file as, {kind, media_types}; null of a server that does not say. Throws ServerError where
 *  it would not read it. */
export async function inspect(blob, key) {
  const body = new FormData();
  body.append("file", blob);
  const response = await fetch(INSPECT, { method: "POST", headers: headersOf(key), body });
  if ([404, 405].includes(response.status)) return null;
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

/** Of every request: the key, and the page's language, in which the server says what is wrong. */
const headersOf = (key) => ({ "Accept-Language": document.documentElement.lang, ...(key ? { Authorization: `Bearer ${key}` } : {}) });

async function errorIn(response) {
  const said = await response.json().catch(() => null);
  return new ServerError(said?.error ?? { message: `${response.status} ${response.statusText}` }, response.status);
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
  if (answer.model) answer.model = chunk.model ?? answer.model; // of several that are asked together, the one that answers
  const delta = chunk.choices[0]?.delta ?? {};
  answer.text += delta.content ?? "";
  answer.transcript += delta.audio?.transcript ?? "";
  for (const kind of Object.keys(FIELD)) for (const part of delta[FIELD[kind]] ?? []) takePart(answer, kind, part);
  for (const notice of noticesOf(chunk)) if (!answer.notices?.some(({ message }) => message === notice.message)) {
    (answer.notices ??= []).push(notice);
  }
  for (const failure of delta.failures ?? []) (answer.failures ??= []).push(problemOf(failure)); // the other media still come
  return delta.audio?.data ? samplesOf(delta.audio.data) : null;
}

/** What the server says of its own answer, {code, message} in the asker's language. The one place that knows the field: of a
 *  chunk, its choice or its delta, `onnuri.notices` (a list) or `onnuri.notice`. */
const noticesOf = (chunk) => [chunk, chunk.choices[0], chunk.choices[0]?.delta].flatMap((part) => part?.onnuri?.notices
  ?? part?.onnuri?.notice ?? []);

/** A medium that came to nothing, as a problem to show. */
function problemOf({ type, message, words }) {
  const kind = Object.keys(PART).find((k) => PART[k] === type);
  return { words, key: kind ? "failed" : "error_other", values: { kind: `@${kind}` }, message };
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
