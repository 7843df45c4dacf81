"""How fast the engine decodes beside `transformers.generate` and vLLM's CPU build, how soon the
server's first picture and sound come, and whether its sound says what its transcript says: `make
bench-serve`. Writes benchmarks/results/serve.json.

Decoding is paired: the same prompts, greedy, the same number of tokens, taking turns in one run,
the median of rounds. vLLM runs in an environment of its own (`--vllm PYTHON`, see docs/server.md)
on the exported folder; without it, its part is left out. The ratio to `generate` is given with the
full head for both, and with our head sliced to a modality. Transcripts are read by the oracle of
`toyworld/oracles/audio.py`, which never sees them.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soxr
import torch

import onnuri
from onnuri.evaluation.machine import machine
from onnuri.inference.cpu_kernel import CompiledLlama
from onnuri.inference.engine import Engine, EngineConfig
from onnuri.inference.request import Request, SamplingConfig, TokenConstraint
from onnuri.modality import AUDIO_HZ, LANGUAGES
from onnuri.server.sound import PCM_HZ
from onnuri.toyworld.attributes import ATTRIBUTES
from onnuri.toyworld.grammar import parse
from onnuri.toyworld.oracles.audio import transcribe
from onnuri.toyworld.oracles.score import score
from onnuri.toyworld.scene import generator, sample_scene
from onnuri.toyworld.text import caption

TOKENS, ROUNDS = 128, 5
GREEDY = SamplingConfig(temperature=0)
SETTLE = 1.5
"""seconds after vLLM's turn: one of its threads waits for more at full speed for one second after
it has answered, on a core that is then measured (without the pause whoever comes next is 40 times
slower)"""
SPOKEN, FRESH = 400, 7000
"""sentences that are spoken, and the first of their scenes, in which nothing was chosen"""
SENTENCE = "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다"


def prompts(model: Any, count: int) -> list[list[int]]:
    """Sentences that are to be spoken, of different lengths."""
    v, found = model.layout, []
    for k in range(count):
        words = model.codecs["text"].encode(
            caption(sample_scene(k, "seen"), "ko", generator("seen", k))
        )
        found.append(
            [v.special("<bos>"), *v.segment("text", words, "ko"), *v.opening("audio", "ko")]
        )
    return found


def ours(engine: Engine, asked: list[list[int]], lo: int, hi: int) -> float:
    """Tokens a second of ids in [lo, hi)."""
    allowed = TokenConstraint(position_ranges=((lo, hi),) * TOKENS)
    start = time.perf_counter()
    handles = [
        engine.submit(Request(prompt=p, token_constraint=allowed, sampling=GREEDY)) for p in asked
    ]
    engine.run(handles)
    return len(asked) * TOKENS / (time.perf_counter() - start)


def theirs(network: Any, asked: list[list[int]]) -> float:
    """`transformers.generate`, eager, default cache, greedy; padded on the left."""
    longest = max(map(len, asked))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in asked])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in asked])
    start = time.perf_counter()
    network.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        pad_token_id=0,
    )
    return len(asked) * TOKENS / (time.perf_counter() - start)


VLLM = """
import json, sys, time
folder, tokens, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
from vllm import LLM, SamplingParams
model = LLM(folder, skip_tokenizer_init=True, dtype="float32", max_model_len=1024, disable_log_stats=True,
            enable_prefix_caching=False)
settings = SamplingParams(temperature=0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True, detokenize=False)
print("READY", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    start = time.perf_counter()
    model.generate([{"prompt_token_ids": p} for p in asked], settings, use_tqdm=False)
    print("TOOK", len(asked) * tokens / (time.perf_counter() - start), flush=True)
"""


class Vllm:
    """vLLM in a process of its own, asked in turns with us."""

    def __init__(self, python: str, folder: Path) -> None:
        environment = {
            **os.environ,
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "OMP_NUM_THREADS": "2",
            "HF_HUB_OFFLINE": "1",
        }
        self.process = subprocess.Popen(
            [python, "-c", VLLM, str(folder), str(TOKENS), str(ROUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self._until("READY")

    def _until(self, word: str) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(word):
                return line
        raise RuntimeError("vLLM ended")

    def close(self) -> None:
        """End it, and the processes that it has started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def speed(self, asked: list[list[int]]) -> float:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        took = float(self._until("TOOK").split()[1])
        time.sleep(SETTLE)
        return took


def decoding(vllm_python: str | None) -> dict[str, Any]:
    """Tokens a second at batch 1 and 8, and ratios."""
    model = onnuri.load()
    engine, plain = (
        Engine(model.network, EngineConfig(prefix_bytes=0, compiled=compiled))
        for compiled in (True, False)
    )
    assert isinstance(engine.forward, CompiledLlama), (
        "no C compiler here: its figures would be PyTorch's"
    )
    lo, hi = model.layout.own("audio")
    slice_ = model.layout.allowed("image")[4]  # type: ignore[index]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        vllm = Vllm(vllm_python, Path(folder) / "model") if vllm_python else None
        for batch in (1, 8):
            asked = prompts(model, batch)
            ways: dict[str, Any] = {
                "onnuri, full head": lambda a=asked: ours(engine, a, 0, model.layout.size),
                "onnuri, head of sound": lambda a=asked: ours(engine, a, lo, hi),
                "onnuri, head of a picture's field": lambda a=asked: ours(engine, a, *slice_),
                "onnuri without a compiler, full head": lambda a=asked: ours(
                    plain, a, 0, model.layout.size
                ),
                "transformers.generate": lambda a=asked: theirs(model.network, a),
            }
            if vllm:
                ways["vLLM"] = lambda a=asked: vllm.speed(a)
            speeds: dict[str, list[float]] = {name: [] for name in ways}
            for k in range(ROUNDS + 1):
                for name, way in ways.items():
                    got = way()
                    if k:  # the first warms up
                        speeds[name].append(got)
            medians = {name: round(statistics.median(s), 1) for name, s in speeds.items()}
            ratios = {
                f"{mine} / {base}": round(medians[mine] / medians[base], 2)
                for base in ("transformers.generate", "vLLM")
                if base in medians
                for mine in medians
                if mine.startswith("onnuri")
            }
            found[f"batch {batch}"] = {
                "tokens_a_second": medians,
                "ratios": ratios,
                "spread": {n: [round(min(s), 1), round(max(s), 1)] for n, s in speeds.items()},
            }
    if vllm:
        vllm.close()
    return found


def deltas(url: str, **asked: Any) -> Iterator[dict[str, Any]]:
    """What a streamed chat tells, chunk by chunk."""
    body = {"stream": True, **asked}
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer,
    ):
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                yield from (choice["delta"] for choice in json.loads(line[6:])["choices"])


def first(url: str, kind: str) -> float:
    """Seconds to the first picture of a stream, or to its first sound."""
    options = {
        "image": {"modalities": ["image"], "partial_images": 3},
        "audio": {"modalities": ["audio"]},
    }[kind]
    start = time.perf_counter()
    for delta in deltas(url, messages=[{"role": "user", "content": SENTENCE}], seed=1, **options):
        if delta.get("images") or base64.b64decode(delta.get("audio", {}).get("data", "")):
            return time.perf_counter() - start
    raise RuntimeError("nothing came")


def said(url: str, k: int) -> tuple[str, np.ndarray]:
    """Transcript and sound of a streamed answer to the k-th sentence."""
    sentence = caption(
        sample_scene(FRESH + k, "seen"), LANGUAGES[k % 2], generator("seen", FRESH + k)
    )
    told = [
        delta.get("audio", {})
        for delta in deltas(
            url, messages=[{"role": "user", "content": sentence}], modalities=["audio"], seed=k
        )
    ]
    text = "".join(part.get("transcript", "") for part in told)
    sound = b"".join(base64.b64decode(part.get("data", "")) for part in told)
    return text, soxr.resample(
        np.frombuffer(sound, "<i2").astype(np.float32) / 32768, PCM_HZ, AUDIO_HZ
    )


def transcripts(url: str) -> dict[str, Any]:
    """How many of the streamed sounds say what their transcripts say, as the oracle hears them."""
    whole = right = asked = 0
    for k in range(SPOKEN):
        text, sound = said(url, k)
        meant, heard = parse(text), parse(transcribe(sound))
        assert meant
        got = score(meant, heard, frozenset(ATTRIBUTES)).attributes
        whole, right, asked = whole + (heard == meant), right + got[0], asked + got[1]
    return {
        "sentences": SPOKEN,
        "whole": whole,
        "attributes_right": right,
        "attributes_asked": asked,
    }


def serving() -> dict[str, Any]:
    """Median and worst seconds to the first picture and sound, alone and with four clients at once;
    and transcripts."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "onnuri.cli", "serve", "--port", "8765", "--data", folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = "http://127.0.0.1:8765"
        try:
            while True:
                time.sleep(0.2)
                try:
                    if httpx.get(f"{url}/ready").status_code == 200:
                        break
                except httpx.HTTPError:
                    continue
            for kind in ("image", "audio"):
                for clients in (1, 4):
                    first(url, kind)
                    with ThreadPoolExecutor(clients) as pool:
                        taken = [
                            s
                            for _ in range(20 // clients)
                            for s in pool.map(first, [url] * clients, [kind] * clients)
                        ]
                    found[f"first {kind}, {clients} client{'s' * (clients > 1)}"] = {
                        "median": round(statistics.median(taken), 4),
                        "worst": round(max(taken), 4),
                    }
            spoken = transcripts(url)
        finally:
            process.terminate()
            process.wait()
    return {"seconds": found, "transcripts": spoken}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", help="the Python of an environment that has vLLM's CPU build")
    asked = parser.parse_args()
    torch.set_num_threads(2)
    found = {"machine": machine(), "tokens": TOKENS, "decoding": decoding(asked.vllm), **serving()}
    path = Path(__file__).parent / "results" / "serve.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
