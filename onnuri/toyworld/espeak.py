"""A process that speaks: espeak-ng behind a pipe, every utterance in a fork of the freshly started
engine.

Run as a module, by `audio.py` only. espeak-ng keeps its voice's flutter and phase from one
utterance to the next, so that a sentence would sound different the second time; a fork starts every
sentence from the same state, whose random numbers have a fixed seed. Knows nothing of Onnuri and
imports little, so that a fork is cheap.

Request: one JSON line {"text", "voice", "rate", "pitch"}. Answer, all int32, little-endian: how
many samples and how many words, each word's place in the text (characters from 0) and first sample,
then int16 samples at the rate that the first line, written at the start, gives. Words that
espeak-ng runs together ("of the") are one.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

_RATE, _PITCH, _SYNCHRONOUS, _UTF8 = 1, 3, 2, 1
_SEED = 1
_END, _WORD = 0, 1
"""types of event"""


class _Event(ctypes.Structure):
    """An _Event mirrors the C struct espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("what", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))


def main() -> None:
    """Start the engine, write its sampling rate in Hz as one line, and answer every request on
    stdin from a fork of its own."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(
        _SYNCHRONOUS, 0, str(Path(espeakng_loader.get_data_path()).parent).encode(), 0
    )
    library.espeak_ng_SetRandSeed(
        ctypes.c_long(_SEED)
    )  # else the time of day, of which breath and flutter are made
    out = sys.stdout.buffer
    out.write(f"{rate}\n".encode())
    out.flush()
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            _speak(library, json.loads(line))
        os.waitpid(child, 0)


def _speak(library: ctypes.CDLL, request: dict[str, str]) -> None:
    """Synthesise one request in the forked child, write the answer to stdout, and exit without
    cleaning up what belongs to the parent."""
    parts: list[bytes] = []
    words: list[int] = []

    def receive(wave: int | None, count: int, events: Any) -> int:
        """Collect the samples and the word events that the engine hands over; returning 0 lets it
        continue."""
        if wave and count > 0:
            parts.append(ctypes.string_at(wave, 2 * count))
        for event in itertools.takewhile(
            lambda e: e.type != _END, (events[k] for k in itertools.count()) if events else ()
        ):
            if event.type == _WORD:
                words.extend((event.text_position - 1, event.sample))
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(request["voice"].encode())
    library.espeak_SetParameter(_RATE, int(request["rate"]), 0)
    library.espeak_SetParameter(_PITCH, int(request["pitch"]), 0)
    text = request["text"].encode()
    library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
    samples = b"".join(parts)
    head = [len(samples) // 2, len(words) // 2, *words]
    answer = memoryview(struct.pack(f"<{len(head)}i", *head) + samples)
    while answer:
        answer = answer[os.write(1, answer) :]
    os._exit(0)


if __name__ == "__main__":
    main()
