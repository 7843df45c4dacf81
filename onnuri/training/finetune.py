"""This module fine-tunes any causal language model on conversations: all weights, or low-rank
adapters by peft.

Only the tokens of answers count in the loss, all with one weight, however conversations fall into
batches. The result is a folder that plain transformers reads, in the base's own dtype, with its
tokenizer, its chat template and, if it has one, its token layout. The module knows no model family:
each sequence has a row of its own, padded at its end, where a causal model does not look.

    OUT/run.json       the settings; the same command resumes from OUT/checkpoint
    OUT/model/         the model, adapters merged
    OUT/adapter/       with --lora, the adapters alone, as peft reads them
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
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
    longest_sequence,
    restore_dtypes,
    save_base,
)
from onnuri.model.cross_entropy import cross_entropy
from onnuri.model.loss import LossParts
from onnuri.parallel import launch
from onnuri.parallel.model import Figures
from onnuri.training.finetune_config import FinetuneConfig
from onnuri.training.loop import TrainConfig, fit
from onnuri.training.record_config import NO_RECORD, RecordConfig
from onnuri.training.run_settings import RUN, check_same_run
from onnuri.training.state import latest

SORTED_BATCHES = 16
"""batches among which sequences are sorted by length, so that rows need little padding"""
HELD_OUT_SHARE, HELD_OUT_AT_MOST, HELD_OUT_FROM = 0.05, 200, 20
"""share of conversations that are held out of training to measure the loss, the most of them, and
the least number of conversations from which any are held out"""


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Sequences holds a data file's token sequences, split into training and held-out ones."""

    training: list[ChatSequence]
    held_out: list[ChatSequence]
    conversations: int
    """number of conversations in the file"""
    cut: int
    """number of sequences that were cut to the longest length allowed"""
    dropped: int
    """number of conversations that were left out because no answer fits"""


class ChatObjective:
    """A ChatObjective trains a causal language model on the answers of conversations."""

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
        """Build the objective: `network` is the causal language model, `module` the part of it that
        is trained and stored, `padding` the id that fills rows."""
        self.network, self.module, self.sequences = network, module, sequences
        self.batch_size, self.micro_batches = batch_size, micro_batches
        self.seed, self.padding = seed, padding
        self.plain_head = has_plain_head(network)
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of optimizer steps in which every sequence is seen once."""
        return -(-len(self.sequences) // self.batch_size)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids, mask and weights [B, T] of micro-batch number `step`, counted from the start
        of training."""
        step, part = divmod(step, self.micro_batches)
        epoch, epoch_step = divmod(step, self.steps_per_epoch)
        indices = self._order(epoch)[epoch_step][part :: self.micro_batches]
        return self.rows([self.sequences[k] for k in indices])

    def _shuffled(self, epoch: int) -> list[list[int]]:
        """Return the indices of each step's sequences in an epoch, in random order, those of one
        step being of similar length."""
        rng = np.random.default_rng([self.seed, epoch])
        order, size = rng.permutation(len(self.sequences)), SORTED_BATCHES * self.batch_size
        steps: list[list[int]] = []
        for first in range(0, len(order), size):
            group = sorted(order[first : first + size], key=lambda k: len(self.sequences[k].ids))
            steps += [group[k : k + self.batch_size] for k in range(0, len(group), self.batch_size)]
        return [steps[k] for k in rng.permutation(len(steps))]

    def rows(self, sequences: Sequence[ChatSequence]) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids, mask and weights [B, T] of sequences, each a row padded at its end."""
        longest = max((len(sequence.ids) for sequence in sequences), default=1)
        ids = torch.full((len(sequences), longest), self.padding)
        mask, weights = torch.zeros_like(ids), torch.zeros(ids.shape)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
            mask[row, : len(sequence.ids)] = 1
            weights[row, : len(sequence.ids)] = torch.tensor(sequence.weights)
        return ids, mask, weights

    def weight(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return the number [] of target tokens in a batch."""
        return batch[2].sum()

    def sequence_lengths(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return the tokens of each sequence [sequences] of a batch, without padding."""
        return batch[1].sum(1)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[LossParts, Figures]:
        """Return the loss of a batch's answer tokens, and for the log the number of all its
        tokens, prompts included and padding not."""
        ids, mask, weights = batch
        if not len(ids):  # the last step of an epoch may have fewer sequences than micro-batches
            parameter = next(p for p in self.module.parameters() if p.requires_grad)
            return LossParts(parameter.sum() * 0.0, 0.0), {"tokens": 0.0}
        device = next(self.network.parameters()).device
        # which positions predict a token of an answer is known on the host, so no copy is awaited
        positions = torch.nonzero(weights[:, 1:].reshape(-1))[:, 0].to(device, non_blocking=True)
        weight = weights[:, 1:].reshape(-1).to(device, non_blocking=True)[positions]
        ids, device_mask = (x.to(device, non_blocking=True) for x in (ids, mask))
        targets = ids[:, 1:].reshape(-1)[positions]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            total = self._sum(ids, device_mask, positions, targets, weight)
        return LossParts(total, self.weight(batch)), {"tokens": float(mask.sum())}

    def _sum(
        self, ids: Tensor, mask: Tensor, positions: Tensor, targets: Tensor, weight: Tensor
    ) -> Tensor:
        """Return the sum [] of weight x loss over some positions [N] of the flattened rows [B, T -
        1]."""
        network: Any = self.network
        if self.plain_head:
            hidden = network.base_model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
            head = network.get_output_embeddings().weight
            return cross_entropy(hidden[:, :-1].flatten(0, 1)[positions], head, targets, weight)
        # some classes cap or scale their logits: those must compute them themselves
        logits = network(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = logits[:, :-1].flatten(0, 1)[positions].float()
        return (nn.functional.cross_entropy(logits, targets, reduction="none") * weight).sum()

    @torch.no_grad()
    def evaluate(self, sequences: Sequence[ChatSequence]) -> float:
        """Return the mean loss per answer token of some sequences."""
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
    """An _Adapters restricts the state dict of a network to its trainable parameters."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network that has adapters."""
        super().__init__()
        self.network = network

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the trainable parameters, by name."""
        return {n: p.detach() for n, p in self.network.named_parameters() if p.requires_grad}

    def load_state_dict(self, state: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """Load the trainable parameters from a state. Raises KeyError if one is missing."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(state[name])


def finetune(config: FinetuneConfig, out: Path, record: RecordConfig = NO_RECORD) -> None:
    """Fine-tune a base model on conversations and write it to OUT/model, resuming a run that was
    interrupted. `record` says what is recorded beside the figures.

    Raises ConfigError for data or settings that cannot be used and for a folder of another run, and
    WeightsError for a base that cannot be loaded.
    """
    launch.refuse_ranks("onnuri train finetune")
    config.check()
    record.check()
    console, base = Console(), Path(config.base)
    tokenizer = load_tokenizer(base)
    settings = _check_run(config, out)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
        console.print("the base has no chat template: a plain one is used and kept with the model")
    dtype, device = _dtype_and_device(config)
    network = load_base(base, dtype=dtype, device=device)
    longest = min(config.max_tokens or 2048, longest_sequence(network))
    sequences = split(Path(config.data), tokenizer, longest, config.seed)
    # only now: a run that never began must not stand in the way of the next
    files.write_json(settings, out / RUN)
    _print_summary(console, network, sequences)
    module = network
    peft_model = _add_adapters(network, config) if config.lora else None
    if peft_model is not None:
        module = _Adapters(peft_model)
    objective = ChatObjective(
        network,
        module,
        sequences.training,
        config.batch_size,
        config.micro_batches,
        config.seed,
        tokenizer.pad_token_id or 0,
    )
    held_out = sequences.held_out
    if held_out and latest(out) is None:
        console.print(f"held out: loss {objective.evaluate(held_out):.3f} per token before")
    loop = train_config(config, objective.steps_per_epoch).replace(record=record)
    fit(objective, loop, out, "finetune")
    if held_out:
        console.print(f"held out: loss {objective.evaluate(held_out):.3f} per token after")
    _write(network, peft_model, tokenizer, base, out, sequences.training)
    console.print(f"wrote {out / 'model'}: from_pretrained reads it")


def train_config(config: FinetuneConfig, steps_per_epoch: int) -> TrainConfig:
    """Return the training loop's settings for a fine-tuning run."""
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
    """Return a file's sequences of at most `longest` tokens, those of a few random conversations
    held out.

    Raises ConfigError if no answer fits.
    """
    conversations = read_conversations(path)
    encoded = [encode_conversation(each, tokenizer, longest) for each in conversations]
    held_out: set[int] = set()
    if len(encoded) >= HELD_OUT_FROM:
        count = min(HELD_OUT_AT_MOST, int(len(encoded) * HELD_OUT_SHARE))
        indices = np.random.default_rng([seed, 1]).permutation(len(encoded))[:count]
        held_out = {int(k) for k in indices}
    training = [s for k, each in enumerate(encoded) if k not in held_out for s in each]
    if not training:
        raise ConfigError(
            f"--data {path}",
            f"has no answer within {longest} tokens",
            "give shorter conversations or more --max-tokens",
        )
    return Sequences(
        training,
        [s for k in sorted(held_out) for s in encoded[k]],
        len(conversations),
        sum(s.cut for each in encoded for s in each),
        sum(not each for each in encoded),
    )


def _check_run(config: FinetuneConfig, out: Path) -> dict[str, Any]:
    """Return what OUT/run.json holds for these settings. Raises ConfigError for data that cannot be
    read, and if the folder is another run's or its file is damaged."""
    try:
        digest = hashlib.sha256(Path(config.data).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"--data {config.data}", f"cannot be read ({error.strerror})", "give a file"
        ) from None
    # the file's content, not its name: a run must not resume on data that has changed
    settings = {**config.to_json(), "data_sha256": digest}
    check_same_run(out, settings)
    return settings


def _dtype_and_device(config: FinetuneConfig) -> tuple[torch.dtype | None, str]:
    """Return the dtype of the weights in training (None: the base's own) and the device.

    Raises ConfigError for a GPU that PyTorch does not see.
    """
    cuda, device = torch.cuda.is_available(), config.device
    if device == "auto":
        device = "cuda" if cuda else "cpu"
    if device == "cuda" and not cuda:
        raise ConfigError(
            f"--device {config.device}", "is not there: PyTorch sees no GPU", "give --device cpu"
        )
    # updates of 1e-5 are lost in 16 bits; weights that adapters leave frozen may have 16 on a GPU
    return (None if config.lora and device != "cpu" else torch.float32), device


def _add_adapters(network: nn.Module, config: FinetuneConfig) -> Any:
    """Add low-rank adapters to a network's linear layers in place and return peft's model around
    it.

    Raises ConfigError if peft is not installed.
    """
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
    with warnings.catch_warnings():  # peft uses a name that transformers has deprecated
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model, settings)


def _print_summary(console: Console, network: nn.Module, sequences: Sequences) -> None:
    """Print the sizes of the model and of the data in one line."""
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
    peft_model: Any,
    tokenizer: Any,
    base: Path,
    out: Path,
    sequences: Sequence[ChatSequence],
) -> None:
    """Write OUT/model and, if there are adapters, OUT/adapter."""
    model: Any = network
    if peft_model is not None:
        with files.whole_folder(out / "adapter") as part:
            peft_model.save_pretrained(part)
        model = peft_model.merge_and_unload()
    _add_stop_tokens(model, tokenizer, sequences)
    restore_dtypes(model, base)
    layout = layout_of(base) if (base / LAYOUT).exists() else None
    save_base(model, tokenizer, layout, out / "model")


def _add_stop_tokens(model: Any, tokenizer: Any, sequences: Sequence[ChatSequence]) -> None:
    """Add the special tokens that end answers in training to those at which `generate` stops."""
    specials = {tokenizer.convert_tokens_to_ids(token) for token in special_tokens(tokenizer)}
    last = [max(k for k, weight in enumerate(sequence.weights) if weight) for sequence in sequences]
    ends = {sequence.ids[k] for sequence, k in zip(sequences, last, strict=True)} & specials
    known = model.generation_config.eos_token_id
    known = [known] if isinstance(known, int) else list(known or [])
    model.generation_config.eos_token_id = [*known, *sorted(ends - set(known))]
