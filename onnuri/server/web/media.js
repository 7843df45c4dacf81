/* Media as the page holds them: {kind, url, name}, the url a data URI. From files, to files, and samples to WAV.
   Knows no server beyond the formats that it reads, and no element of the page. */

/** Endings of files, with kind and media type: of those that are saved, and of those that every server reads. */
const ENDINGS = {
  png: ["image", "image/png"], jpg: ["image", "image/jpeg"], jpeg: ["image", "image/jpeg"], webp: ["image", "image/webp"],
  wav: ["audio", "audio/wav"], flac: ["audio", "audio/flac"], mp3: ["audio", "audio/mpeg"], ogg: ["audio", "audio/ogg"],
  opus: ["audio", "audio/ogg"], mp4: ["video", "video/mp4"], webm: ["video", "video/webm"], gif: ["video", "image/gif"],
  glb: ["mesh", "model/gltf-binary"], obj: ["mesh", "model/obj"], ply: ["mesh", "model/ply"], stl: ["mesh", "model/stl"],
};
export const MOST_MB = 16; // the server reads 24 MiB a request, and base64 makes four bytes of three
const REDRAWN_SIDE = 2048;
const KEPT_BYTES = 4 * 2 ** 20; // larger pictures, and those
const KEPT_PIXELS = 8_000_000; // of more pixels, are redrawn smaller
const DECODED_HZ = 24_000;

export const ENDINGS_READ = Object.keys(ENDINGS).map((ending) => `.${ending}`);

/** The item that a file is. A photograph is made smaller first. `inspect` says what the server reads a file as, null where
 *  it says nothing, and rejects what it does not read; then the browser tries. Null for kinds that nobody reads. Rejects
 *  where nobody can decode it. */
export async function itemOf(file, inspect) {
  const sent = isPicture(file) ? await shrunk(file) : file;
  try {
    const about = await inspect(sent);
    if (about) return item(about.kind, sent, typeAmong(about), file.name);
  } catch (error) {
    return decodedHere(file, error);
  }
  const known = sent === file ? knownOf(file) : ["image", sent.type];
  return known ? item(known[0], sent, known[1], file.name) : decodedHere(file, null);
}

const item = async (kind, blob, type, name) => ({ kind, url: await dataUri(new Blob([blob], { type })), name });
const typeAmong = ({ kind, media_types }) => media_types.find((type) => type.startsWith(`${kind}/`)) ?? media_types[0];
const endingIn = (name) => name.split(".").pop().toLowerCase();
const knownOf = (file) => ENDINGS[endingIn(file.name)] ?? Object.values(ENDINGS).find(([, type]) => type === file.type);
const isPicture = (file) => (knownOf(file)?.[0] ?? file.type.split("/")[0]) === "image";

/** What the server does not read, as a picture or a sound that the browser does; else the `error`, or null without one. */
async function decodedHere(file, error) {
  const kind = file.type.split("/")[0];
  try {
    if (kind === "image") return { kind, url: await dataUri(await redrawn(await createImageBitmap(file), "image/png")), name: `${file.name}.png` };
    if (kind === "audio") return { kind, url: await dataUri(await asWav(file)), name: `${file.name}.wav` };
  } catch (failure) {
    throw error ?? failure;
  }
  if (error) throw error;
  return null;
}

/** A picture of no more bytes and pixels than are sent; itself where it has no more, or the browser cannot draw it. */
async function shrunk(file) {
  const picture = await createImageBitmap(file).catch(() => null);
  if (!picture || (file.size <= KEPT_BYTES && picture.width * picture.height <= KEPT_PIXELS)) return file;
  return redrawn(picture, file.type === "image/jpeg" ? "image/jpeg" : "image/png");
}

export function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

export const base64Of = (url) => url.slice(url.indexOf(",") + 1);
export const typeOf = (url) => url.slice(5, url.search(/[;,]/));
export const sizeOf = (item) => base64Of(item.url).length * 0.75 - item.url.match(/=*$/)[0].length;
export const endingOf = (item) => Object.keys(ENDINGS).find((e) => ENDINGS[e][1] === typeOf(item.url)) ?? "bin";

/** Bytes of base64 text. */
export const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

/** Whether an item is a GLB with a head as it must be; the viewer reports others to the console.
 *  https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html#binary-header */
export function isGlb(item) {
  if (typeOf(item.url) !== "model/gltf-binary") return false;
  const head = bytesOf(base64Of(item.url).slice(0, 28)); // 21 bytes
  return head.length > 20 && String.fromCharCode(...head.slice(0, 4), ...head.slice(16, 20)) === "glTFJSON"
    && new DataView(head.buffer).getUint32(8, true) === sizeOf(item);
}

/** Saves an item as a file. Through a Blob, as browsers refuse long data URIs as downloads. */
export function download(item) {
  const url = URL.createObjectURL(new Blob([bytesOf(base64Of(item.url))], { type: typeOf(item.url) }));
  const link = Object.assign(document.createElement("a"), { href: url, download: item.name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A WAV file of samples Int16Array, one channel. https://www.mmsp.ece.mcgill.ca/Documents/AudioFormats/WAVE/WAVE.html */
export function wav(samples, hz) {
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((c, k) => header.setUint8(at + k, c.charCodeAt(0)));
  text(0, "RIFF"); header.setUint32(4, 36 + samples.byteLength, true); text(8, "WAVE");
  text(12, "fmt "); header.setUint32(16, 16, true); header.setUint16(20, 1, true); header.setUint16(22, 1, true);
  header.setUint32(24, hz, true); header.setUint32(28, 2 * hz, true); header.setUint16(32, 2, true);
  header.setUint16(34, 16, true); text(36, "data"); header.setUint32(40, samples.byteLength, true);
  return new Blob([header, samples], { type: "audio/wav" });
}

/** Any sound that the browser can decode, as WAV, which every browser plays again. */
export async function asWav(blob) {
  const sound = await new OfflineAudioContext(1, 1, DECODED_HZ).decodeAudioData(await blob.arrayBuffer());
  const channels = Array.from({ length: sound.numberOfChannels }, (_, k) => sound.getChannelData(k));
  const samples = Int16Array.from({ length: sound.length }, (_, t) => {
    const mean = channels.reduce((sum, channel) => sum + channel[t], 0) / channels.length;
    return Math.max(-1, Math.min(1, mean)) * 32767;
  });
  return wav(samples, DECODED_HZ);
}

function redrawn(picture, type) {
  const scale = Math.min(1, REDRAWN_SIDE / Math.max(picture.width, picture.height));
  return drawn(picture, Math.max(1, Math.round(picture.width * scale)), Math.max(1, Math.round(picture.height * scale)), type);
}

/** A picture of anything that a canvas draws. */
export function drawn(source, width, height, type = "image/png") {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(source, 0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, type, 0.92));
}
