"""Fine-tuning of any causal language model on conversations: all weights, or low-rank adapters by
peft.

The loss is that of answers alone, each token weighing the same however conversations are dealt out
to batches. What comes out is a folder that plain transformers reads, in the base's own type, with
its tokenizer, its chat template and, where it has one, its token layout. Names no family: sequences
stand in rows of their own, filled up at the end, which no causal model sees.

    OUT/run.json       what was asked; the same command goes on from OUT/checkpoint.pt
    OUT/model/         the model, adapters merged
    OUT/adapter/       with --lora, the adapters alone, as peft reads them
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from onnuri import files
from onnuri.data.chat import (
    PLAIN_TEMPLATE,
    ChatSequence,
    encode_conversation,
    read_conversations,
    special_tokens,
)
from onnuri.errors import ConfigError
from onnuri.model.base import (
    LAYOUT,
    has_plain_head,
    layout_of,
    load_base,
    load_tokenizer,
    save_base,
)
from onnuri.model.cross_entropy import cross_entropy
from onnuri.model.loss import LossParts
from onnuri.training.finetune_config import FinetuneConfig
from onnuri.training.loop import Figures, TrainConfig, fit

SORTED_BATCHES = 16
"""batches whose sequences are sorted by length, so that little of a row is filled up"""
HELD_OUT_SHARE, HELD_OUT_AT_MOST, HELD_OUT_FROM = 0.05, 200, 20
"""of conversations, kept from training to measure the loss; none of fewer than so many"""


@dataclasses.dataclass(frozen=True)
class Sequences:
    """What a file teaches, split once."""

    training: list[ChatSequence]
    held_out: list[ChatSequence]
    conversations: int
    cut: int
    """sequences that were longer than they may be"""
    dropped: int
    """conversations of which no answer was left"""


class ChatObjective:
    """The answers of conversations, as the training loop wants them."""

    def __init__(
        self,
        network: nn.Module,
        module: nn.Module,
        sequences: Sequence[ChatSequence],
        batch_size: int,
        micro_batches: int,
        seed: int,
        padding: int,
    ) -> None:
        """`network`: a causal language model; `module`: what of it is trained and stored."""
        self.network, self.module, self.sequences = network, module, sequences
        self.batch_size, self.micro_batches = batch_size, micro_batches
        self.seed, self.padding = seed, padding
        self.plain_head = has_plain_head(network)
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)

    @property
    def steps_per_epoch(self) -> int:
        """Return how many steps of the optimizer see every sequence once."""
        return -(-len(self.sequences) // self.batch_size)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids, mask and weights [B, T] of a micro-batch, counted through all steps."""
        step, part = divmod(step, self.micro_batches)
        epoch, place = divmod(step, self.steps_per_epoch)
        chosen = self._order(epoch)[place][part :: self.micro_batches]
        return self.rows([self.sequences[k] for k in chosen])

    def _shuffled(self, epoch: int) -> list[list[int]]:
        """Return which sequences each step of an epoch sees: in random order, those of a step about
        as long as each other."""
        rng = np.random.default_rng([self.seed, epoch])
        order, many = rng.permutation(len(self.sequences)), SORTED_BATCHES * self.batch_size
        steps: list[list[int]] = []
        for first in range(0, len(order), many):
            near = sorted(order[first : first + many], key=lambda k: len(self.sequences[k].ids))
            steps += [near[k : k + self.batch_size] for k in range(0, len(near), self.batch_size)]
        return [steps[k] for k in rng.permutation(len(steps))]

    def rows(self, sequences: Sequence[ChatSequence]) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids, mask and weights [B, T] of sequences, filled up at their ends."""
        longest = max((len(sequence.ids) for sequence in sequences), default=1)
        ids = torch.full((len(sequences), longest), self.padding)
        mask, weights = torch.zeros_like(ids), torch.zeros(ids.shape)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
            mask[row, : len(sequence.ids)] = 1
            weights[row, : len(sequence.ids)] = torch.tensor(sequence.weights)
        return ids, mask, weights

    def weight(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return the number of tokens to learn in a batch []."""
        return batch[2].sum()

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[LossParts, Figures]:
        """Return the loss of answers' tokens, and how many ids were read."""
        ids, mask, weights = batch
        if not len(ids):  # the last step of an epoch may have fewer sequences than micro-batches
            nothing = next(p for p in self.module.parameters() if p.requires_grad)
            return LossParts(nothing.sum() * 0.0, 0.0), {"tokens": 0.0}
        device = next(self.network.parameters()).device
        # which positions foretell a token of an answer is known on the host: nothing waits
        at = torch.nonzero(weights[:, 1:].reshape(-1))[:, 0].to(device, non_blocking=True)
        weight = weights[:, 1:].reshape(-1).to(device, non_blocking=True)[at]
        moved, seen = (x.to(device, non_blocking=True) for x in (ids, mask))
        targets = moved[:, 1:].reshape(-1)[at]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            total = self._sum(moved, seen, at, targets, weight)
        return LossParts(total, self.weight(batch)), {"tokens": float(mask.sum())}

    def _sum(
        self, ids: Tensor, mask: Tensor, at: Tensor, targets: Tensor, weight: Tensor
    ) -> Tensor:
        """Return the sum of weight x loss [] over the positions `at` [N] of rows [B, T - 1]."""
        network: Any = self.network
        if self.plain_head:
            hidden = network.base_model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
            head = network.get_output_embeddings().weight
            return cross_entropy(hidden[:, :-1].flatten(0, 1)[at], head, targets, weight)
        # what a class does to its logits (caps and scales them) it does itself
        logits = network(input_ids=ids, attention_mask=mask, use_cache=False).logits
        wanted = logits[:, :-1].flatten(0, 1)[at].float()
        return (nn.functional.cross_entropy(wanted, targets, reduction="none") * weight).sum()

    @torch.no_grad()
    def evaluate(self, sequences: Sequence[ChatSequence]) -> float:
        """Return the mean loss per token of answers."""
        training = self.network.training
        self.network.eval()
        ordered = sorted(sequences, key=lambda sequence: len(sequence.ids))
        total, weight = 0.0, 0.0
        for first in range(0, len(ordered), self.batch_size):
            parts, _ = self.loss(self.rows(ordered[first : first + self.batch_size]))
            total, weight = total + float(parts.sum), weight + float(parts.weight)
        self.network.train(training)
        return total / weight


class _Adapters(nn.Module):
    """A network of which adapters alone are trained and stored."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def state_dict(self, *args: Any, **named: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return what is trained, by name."""
        return {n: p.detach() for n, p in self.network.named_parameters() if p.requires_grad}

    def load_state_dict(self, state: Any, *args: Any, **named: Any) -> Any:  # type: ignore[override]
        """Put back what was stored. Raises KeyError where a weight is missing."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(state[name])


def finetune(config: FinetuneConfig, out: Path) -> None:
    """Train a base on conversations and write the model to OUT/model, going on where OUT was left.

    Raises ConfigError for data or settings that cannot be used and for a folder of another run, and
    WeightsError for a base that cannot be loaded.
    """
    config.check()
    console, base = Console(), Path(config.base)
    tokenizer = load_tokenizer(base)
    _check_run(config, out)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
        console.print("the base has no chat template: a plain one is used and kept with the model")
    dtype, device = _dtype_and_device(base, config)
    network = load_base(base, dtype=dtype, device=device)
    longest = min(config.max_tokens or 2048, _positions(network))
    sequences = split(Path(config.data), tokenizer, longest, config.seed)
    _tell(console, network, sequences)
    module = network
    adapted = _adapt(network, config) if config.lora else None
    if adapted is not None:
        module = _Adapters(adapted)
    task = ChatObjective(
        network,
        module,
        sequences.training,
        config.batch_size,
        config.micro_batches,
        config.seed,
        tokenizer.pad_token_id or 0,
    )
    fresh = not (out / "checkpoint.pt").exists()
    before = task.evaluate(sequences.held_out) if sequences.held_out and fresh else None
    if before is not None:
        console.print(f"held out: loss {before:.3f} per token before")
    fit(task, train_config(config, task.steps_per_epoch), out, "finetune")
    if sequences.held_out:
        console.print(f"held out: loss {task.evaluate(sequences.held_out):.3f} per token after")
    _write(network, adapted, tokenizer, base, out, sequences.training)
    console.print(f"wrote {out / 'model'}: from_pretrained reads it")


def train_config(config: FinetuneConfig, steps_per_epoch: int) -> TrainConfig:
    """Return how long and how fast the loop runs."""
    steps = config.steps or max(1, round(config.epochs * steps_per_epoch))
    return TrainConfig(
        steps=steps,
        learning_rate=config.learning_rate or (2e-4 if config.lora else 1e-5),
        warmup_steps=steps // 30,
        decay=0.9,
        weight_decay=0.0,
        betas=(0.9, 0.999),
        micro_batches=config.micro_batches,
        seed=config.seed,
        log_every=max(1, min(20, steps // 10)),
    )


def split(path: Path, tokenizer: Any, longest: int, seed: int) -> Sequences:
    """Return a file's sequences, a few conversations held out. Raises ConfigError where no answer
    fits."""
    conversations = read_conversations(path)
    encoded = [encode_conversation(each, tokenizer, longest) for each in conversations]
    held: set[int] = set()
    if len(encoded) >= HELD_OUT_FROM:
        many = min(HELD_OUT_AT_MOST, int(len(encoded) * HELD_OUT_SHARE))
        chosen = np.random.default_rng([seed, 1]).permutation(len(encoded))[:many]
        held = {int(k) for k in chosen}
    training = [s for k, each in enumerate(encoded) if k not in held for s in each]
    if not training:
        raise ConfigError(
            f"--data {path}",
            f"has no answer within {longest} tokens",
            "give shorter conversations or more --max-tokens",
        )
    return Sequences(
        training,
        [s for k in sorted(held) for s in encoded[k]],
        len(conversations),
        sum(len(s.ids) == longest for each in encoded for s in each),
        sum(not each for each in encoded),
    )


def _check_run(config: FinetuneConfig, out: Path) -> None:
    """Write what is asked beside the run; raise ConfigError where the folder is of another."""
    try:
        digest = hashlib.sha256(Path(config.data).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"--data {config.data}", f"cannot be read ({error.strerror})", "give a file"
        ) from None
    asked = {**config.to_json(), "data_sha256": digest}
    path = out / "run.json"
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(k for k in asked if earlier.get(k) != asked[k])
        if other:
            raise ConfigError(
                f"{out}", f"holds a run with another {', '.join(other)}", "give another --out"
            )
    else:
        files.write_json(asked, path)


def _dtype_and_device(base: Path, config: FinetuneConfig) -> tuple[torch.dtype | None, str]:
    """Return the type that weights have while they are trained (None: the base's own), and
    where."""
    cuda = torch.cuda.is_available()
    device = ("cuda" if cuda else "cpu") if config.device == "auto" else config.device
    if device.startswith("cuda") and not cuda:
        raise ConfigError(
            f"--device {config.device}", "is not there: PyTorch sees no GPU", "give --device cpu"
        )
    # updates of 1e-5 are lost in 16 bits; weights that stay as they are may have them on a GPU
    return (None if config.lora and device != "cpu" else torch.float32), device


def _positions(network: nn.Module) -> int:
    """Return the longest sequence that a model knows; any, where it names none."""
    config: Any = network.config
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 30)


def _adapt(network: nn.Module, config: FinetuneConfig) -> Any:
    """Put adapters beside a network's linear layers, in place; return peft's model around it."""
    try:
        import peft
    except ImportError:
        raise ConfigError(
            f"--lora {config.lora}", "needs peft", "pip install 'onnuri[finetune]'"
        ) from None
    assert config.lora is not None
    torch.manual_seed(config.seed)
    settings = peft.LoraConfig(
        r=config.lora,
        lora_alpha=config.lora_alpha or 2 * config.lora,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model: Any = network
    with warnings.catch_warnings():  # peft asks transformers for what has another name since
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model, settings)


def _tell(console: Console, network: nn.Module, sequences: Sequences) -> None:
    """Say what is trained on what."""
    params = sum(p.numel() for p in network.parameters())
    ids = sum(len(s.ids) for s in sequences.training)
    answers = sum(sum(s.weights) for s in sequences.training)
    parts = [
        f"{type(network).__name__}, {params / 1e6:,.1f}M parameters",
        f"{sequences.conversations:,} conversations, {len(sequences.held_out)} sequences held out",
        f"{ids:,} tokens, {answers:,.0f} of them answers",
    ]
    if sequences.cut:
        parts.append(f"{sequences.cut} sequences cut at their end (--max-tokens)")
    if sequences.dropped:
        parts.append(f"{sequences.dropped} conversations dropped: no answer fits")
    console.print("; ".join(parts), highlight=False)


def _write(
    network: nn.Module,
    adapted: Any,
    tokenizer: Any,
    base: Path,
    out: Path,
    sequences: Sequence[ChatSequence],
) -> None:
    """Write OUT/model, and the adapters beside it where there are any."""
    model: Any = network
    if adapted is not None:
        with files.whole_folder(out / "adapter") as part:
            adapted.save_pretrained(part)
        model = adapted.merge_and_unload()
    _stop_where_answers_end(model, tokenizer, sequences)
    # each weight in the base's own type: some classes keep a few in 32 bits
    outline = load_base(base, device="meta").state_dict()
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data = tensor.data.to(outline[name].dtype)
    layout = layout_of(base) if (base / LAYOUT).exists() else None
    save_base(model, tokenizer, layout, out / "model")


def _stop_where_answers_end(model: Any, tokenizer: Any, sequences: Sequence[ChatSequence]) -> None:
    """Make `generate` stop at the tokens that end answers in training, beside those at which it
    stops."""
    specials = {tokenizer.convert_tokens_to_ids(token) for token in special_tokens(tokenizer)}
    last = [max(k for k, weight in enumerate(sequence.weights) if weight) for sequence in sequences]
    ends = {sequence.ids[k] for sequence, k in zip(sequences, last, strict=True)} & specials
    known = model.generation_config.eos_token_id
    known = [known] if isinstance(known, int) else list(known or [])
    model.generation_config.eos_token_id = [*known, *sorted(ends - set(known))]
