/* A sound from the microphone and a picture from the camera, as items. Knows no element but the video to look through.
   Both reject where the browser, or the one before it, says no. */

import { asWav, dataUri, drawn } from "./media.js";

const MOST_SECONDS = 15; // what the model hears

/** Begins to record; `stop()` ends it and `item` is then the sound. */
export async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const ended = new Promise((resolve) => { recorder.onstop = resolve; });
  recorder.start();
  const stop = () => recorder.state !== "inactive" && recorder.stop();
  const timer = setTimeout(stop, MOST_SECONDS * 1000);
  return { stop, item: ended.then(() => soundOf(parts, stream, timer)) };
}

async function soundOf(parts, stream, timer) {
  clearTimeout(timer);
  close(stream);
  return { kind: "audio", url: await dataUri(await asWav(new Blob(parts))), name: "microphone.wav" };
}

/** Shows the camera in a <video>; the stream is to be closed. */
export async function look(video) {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  video.srcObject = stream;
  await video.play();
  return stream;
}

/** What the <video> shows now, as a picture. */
export async function shoot(video) {
  const url = await dataUri(await drawn(video, video.videoWidth, video.videoHeight));
  return { kind: "image", url, name: "camera.png" };
}

export const close = (stream) => stream.getTracks().forEach((track) => track.stop());
