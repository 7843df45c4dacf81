"""A process that speaks: espeak-ng behind a pipe, every utterance in a fork of the freshly started engine.

Run as a module, by `audio.py` only. espeak-ng keeps its voice's flutter and phase from one utterance to the next, so
that a sentence would sound different the second time; a fork starts every sentence from the same state. Knows nothing
of Onnuri and imports little, so that a fork is cheap.

Request: one JSON line {"text", "voice", "rate", "pitch"}. Answer: 4 bytes (little-endian) count, then int16 samples at
the rate that the first line, written at the start, gives.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

_RATE, _PITCH, _SYNCHRONOUS, _UTF8 = 1, 3, 2, 1
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def main() -> None:
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(Path(espeakng_loader.get_data_path()).parent).encode(), 0)
    out = sys.stdout.buffer
    out.write(f"{rate}\n".encode())
    out.flush()
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            _speak(library, json.loads(line))
        os.waitpid(child, 0)


def _speak(library: ctypes.CDLL, request: dict[str, str]) -> None:
    """In the fork: synthesise, answer, end without any clean-up of the parent's things."""
    parts: list[bytes] = []

    def receive(wave: int | None, count: int, events: int | None) -> int:
        if wave and count > 0:
            parts.append(ctypes.string_at(wave, 2 * count))
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(request["voice"].encode())
    library.espeak_SetParameter(_RATE, int(request["rate"]), 0)
    library.espeak_SetParameter(_PITCH, int(request["pitch"]), 0)
    text = request["text"].encode()
    library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
    samples = b"".join(parts)
    answer = memoryview((len(samples) // 2).to_bytes(4, "little") + samples)
    while answer:
        answer = answer[os.write(1, answer) :]
    os._exit(0)


if __name__ == "__main__":
    main()
