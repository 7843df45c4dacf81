/* Plays samples while they arrive: buffers end to end on one clock. Knows not where they come from. */

export const PCM_HZ = 24_000; // of the server's streams: 16 bit, little-endian, one channel
const LEAD_SECONDS = 0.08; // before the first buffer, so that the second is there in time

export class Player {
  #context = null;
  #sources = new Set();
  #end = 0;
  #time = 0; // how often it was stopped

  /** Plays samples Int16Array right after those before. */
  push(samples) {
    if (!samples.length) return;
    this.#context ??= new AudioContext({ sampleRate: PCM_HZ });
    this.#context.resume();
    const source = this.#sourceOf(samples);
    const start = Math.max(this.#end, this.#context.currentTime + LEAD_SECONDS);
    source.start(start);
    this.#end = start + samples.length / PCM_HZ;
  }

  stop() {
    for (const source of this.#sources) source.stop();
    this.#sources.clear();
    this.#end = 0;
    this.#time += 1;
  }

  /** Voices [{push, end}, …] that play one after another, however their samples arrive; `stop` silences them for good. */
  inTurn(count) {
    const time = this.#time;
    const voices = Array.from({ length: count }, () => ({ held: [], ended: false }));
    const flow = () => {
      for (const voice of time === this.#time ? voices : []) {
        voice.held.splice(0).forEach((samples) => this.push(samples));
        if (!voice.ended) return;
      }
    };
    return voices.map((voice) => ({
      push: (samples) => { voice.held.push(samples); flow(); },
      end: () => { voice.ended = true; flow(); },
    }));
  }

  #sourceOf(samples) {
    const buffer = this.#context.createBuffer(1, samples.length, PCM_HZ);
    buffer.copyToChannel(Float32Array.from(samples, (sample) => sample / 32768), 0);
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#context.destination);
    source.onended = () => this.#sources.delete(source);
    this.#sources.add(source);
    return source;
  }
}
