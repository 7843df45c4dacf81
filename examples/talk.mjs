// The same in JavaScript: `npm install openai`, then `node examples/talk.mjs [http://127.0.0.1:8000/v1]`.
import { mkdirSync, writeFileSync } from "node:fs";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2] ?? "http://127.0.0.1:8000/v1", apiKey: "none" });

const answer = await client.chat.completions.create({
  model: "onnuri-laptop",
  modalities: ["image", "audio"],
  audio: { voice: "default", format: "wav" },
  messages: [{ role: "user", content: "a small red sphere is to the left of a blue cube" }],
});
const message = answer.choices[0].message;
const picture = message.images[0].image_url.url;
mkdirSync("out", { recursive: true });
writeFileSync("out/picture.png", Buffer.from(picture.split(",")[1], "base64"));
writeFileSync("out/speech.wav", Buffer.from(message.audio.data, "base64"));
console.log("wrote out/picture.png and out/speech.wav, which says:", message.audio.transcript);

const stream = await client.chat.completions.create({
  model: "onnuri-laptop",
  stream: true,
  messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: picture } }] }],
});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
console.log();

const spoken = await client.audio.speech.create({ model: "onnuri-laptop", voice: "default", input: "a red cube", response_format: "wav" });
const file = await OpenAI.toFile(Buffer.from(await spoken.arrayBuffer()), "speech.wav");
const heard = await client.audio.transcriptions.create({ model: "onnuri-laptop", file });
console.log("heard:", heard.text);
const models = await client.models.list();
console.log("served:", models.data.map((m) => m.id).join(", "));
