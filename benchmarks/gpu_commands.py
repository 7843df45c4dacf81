"""Onnuri's commands on one GPU, as a user types them: pretrain on one's own text (layers compiled;
recomputed and offloaded; stopped and gone on with), fine-tune, generate with the model that ships.

    python benchmarks/gpu_commands.py            some three minutes; results/gpu_commands.json
    python benchmarks/gpu_commands.py --tiny     the same on a CPU, with a smaller model

It trains a model of 30M weights on this repository's own documents, which says whether the
commands work, learn and agree, and nothing about speed. Results are written after each command.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/gpu_commands.json"
LIMIT_SECONDS = 150
"""of one command"""
VOCABULARY = 4096
"""ids of the tokenizer that is trained on the documents"""


def prepare(folder: Path, tiny: bool) -> None:
    """Write a folder with a tokenizer and a model's config, without weights; text, and
    conversations."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))]
    texts += [(ROOT / "README.md").read_text(encoding="utf-8")]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=names, initial_alphabet=alphabet),
    )
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=names[0],
        eos_token=names[1],
        pad_token=names[2],
        chat_template=template,
    ).save_pretrained(folder / "base")
    width, layers = (64, 2) if tiny else (512, 8)
    config: Any = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64 or 1,
        num_key_value_heads=width // 64 or 1,
        head_dim=64,
        intermediate_size=3 * width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder / "base")
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    turns = [
        {"prompt": f"What is {a} and {b}?", "completion": f"{a} and {b} is {a + b}."}
        for a in range(20)
        for b in range(10)
    ]
    told = "\n".join(map(json.dumps, turns)) + "\n"
    (folder / "chat.jsonl").write_text(told, encoding="utf-8")


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start an `onnuri` command whose output is kept."""
    return subprocess.Popen(
        [sys.executable, "-m", "onnuri", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
    )


def call(*arguments: object, status: int = 0) -> str:
    """Return what an `onnuri` command prints. Raises RuntimeError if it ends with another
    status."""
    process = start(*arguments)
    try:
        told, _ = process.communicate(timeout=LIMIT_SECONDS)
    finally:
        process.kill()
    if process.returncode != status:
        raise RuntimeError(f"status {process.returncode}: {told[-1500:]}")
    return told


def learned(run: Path) -> dict[str, Any]:
    """Return what a run's log says: first and last loss, speed and memory."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [json.loads(line) for line in lines]
    steps = [line for line in logged if "loss" in line]
    keys = ("tokens_per_second", "mfu", "peak_bytes", "seconds")
    return {
        "steps": steps[-1]["step"],
        "loss_first": round(steps[0]["loss"], 4),
        "loss_last": round(steps[-1]["loss"], 4),
        **{key: steps[-1][key] for key in keys if key in steps[-1]},
    }


class Commands:
    """The commands, each with what it left behind."""

    def __init__(self, folder: Path, tiny: bool) -> None:
        """Work in a folder that `prepare` has filled."""
        self.folder, self.tiny = folder, tiny
        size = (128, 2, 12) if tiny else (1024, 8, 60)
        flags = ("--tokens", size[0], "--rows", size[1], "--steps", size[2])
        self.train = (*flags, "--warmup-steps", 5, "--learning-rate", "1e-3")
        self.device = "cpu" if tiny else "cuda"

    def command(self, run: Path) -> tuple[object, ...]:
        """Return the command that trains on text from random weights into a folder, after its text
        has been made ids."""
        base, data = self.folder / "base", self.folder / "store"
        if not data.exists():
            call("tokenize", self.folder / "text.jsonl", "-o", data, "--tokenizer", base)
        return ("train", "pretrain", base, "--data", data, *self.train, "-o", run)

    def pretrain(self, name: str, *more: object) -> dict[str, Any]:
        """Train on text from random weights."""
        run = self.folder / name
        call(*self.command(run), *more)
        return learned(run)

    def plain(self) -> dict[str, Any]:
        """Train as the command comes, on a GPU with compiled layers."""
        return self.pretrain("plain")

    def recomputed(self) -> dict[str, Any]:
        """Train with activations computed again and, on a GPU, weights and optimizer on the host."""
        layout = "recompute=full" if self.tiny else "recompute=full,offload"
        return self.pretrain("recomputed", "--layout", layout)

    def muon(self) -> dict[str, Any]:
        """Train with Muon, which iterates in 16 bits on a GPU."""
        return self.pretrain("muon", "--optimizer", "muon")

    def stopped(self) -> dict[str, Any]:
        """Stop a run by SIGTERM after some steps, and go on with the same command."""
        run = self.folder / "stopped"
        command = self.command(run)
        process = start(*command)
        try:
            limit = time.perf_counter() + LIMIT_SECONDS
            while not (run / "metrics.jsonl").exists() and time.perf_counter() < limit:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            told, _ = process.communicate(timeout=LIMIT_SECONDS)
        finally:
            process.kill()
        if process.returncode != 75:
            raise RuntimeError(f"status {process.returncode} after SIGTERM: {told[-1500:]}")
        call(*command)
        return learned(run)

    def finetune(self) -> dict[str, Any]:
        """Fine-tune what `plain` wrote on conversations."""
        run = self.folder / "tuned"
        base, chat = self.folder / "plain/model", self.folder / "chat.jsonl"
        call(
            *("train", "finetune", "--base", base, "--data", chat, "--steps", 20, "-o", run),
            *("--learning-rate", "1e-3", "--device", self.device),
        )
        return learned(run)

    def read(self) -> dict[str, Any]:
        """Read both models by plain transformers, on a CPU, and generate."""
        from transformers import AutoModelForCausalLM

        found = {}
        for name in ("plain", "tuned"):
            model: Any = AutoModelForCausalLM.from_pretrained(self.folder / name / "model")
            made = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False)
            found[name] = made.shape[1]
        return found

    def generate(self) -> dict[str, Any]:
        """Draw a sentence with the model that ships."""
        sizes = {}
        for to, file in (("image", "a.png"), ("audio", "a.wav"), ("shape", "a.glb")):
            out = self.folder / file
            sentence = "A large yellow star is above a small green cone."
            call("generate", "--to", to, "--text", sentence, "-o", out, "--device", self.device)
            sizes[to] = out.stat().st_size
        return sizes


def run(tiny: bool, out: Path | None) -> dict[str, Any]:
    """Return what every command left, printed as it comes."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    results: dict[str, Any] = {"device": device, "torch": torch.__version__, "tiny": tiny}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, tiny)
        commands = Commands(folder, tiny)
        parts: list[Callable[[], dict[str, Any]]] = [
            commands.plain,
            commands.recomputed,
            commands.finetune,
            commands.read,
            commands.generate,
            commands.stopped,
            commands.muon,
        ]
        for part in parts:
            began = time.perf_counter()
            try:
                found = part()
            except Exception as error:  # the others go on
                found = {"error": f"{type(error).__name__}: {error}"}
            found["part_s"] = round(time.perf_counter() - began, 1)
            results[part.__name__] = found
            print(part.__name__, json.dumps(found), flush=True)
            if out:
                out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def main() -> None:
    read = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    read.add_argument("--tiny", action="store_true", help="a small model, on a CPU")
    read.add_argument("--out", type=Path, help="file of results (results/gpu_commands.json)")
    asked = read.parse_args()
    run(asked.tiny, asked.out or (None if asked.tiny else RESULT))


if __name__ == "__main__":
    main()
