"""Find a model by whatever names it: a config of Hugging Face, a name of the shipped shapes, or a
size. Knows no recipe.

What comes back says of itself what was assumed. An unknown name is an error with the nearest known
ones, never a neighbour's shape.
"""

from __future__ import annotations

import difflib
import re

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.phrases import Phrase, joined
from onnuri.planner import hardware, shapes, sizes, stock
from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Gpu
from onnuri.planner.loss import effective_params
from onnuri.planner.recipe import Recipe, TrainingStage, best_batch, text_recipe

SEQUENCE = 4_096
"""tokens of a training sequence where the user sets none: what most public models were trained
with"""
TOKENS_PER_PARAMETER = 20.0
"""training tokens per effective parameter where the user sets none (Hoffmann et al. 2022, arXiv
2203.15556)"""
DAYS = 30.0
"""days that training takes on the assumed cluster at 40 % of its peak"""
GPU = "H100"
MOST_TOKENS = 10**12
"""tokens of a sequence or batch beyond which a number is a slip of the keyboard"""


LAYOUT_ALONE = Phrase(
    "runnable here is said of the layout alone: Onnuri's trainer builds {}",
    ", ".join(stock.FAMILIES),
)
"""note on models that Onnuri's trainer does not build"""


class Named(Config):
    """A model that is no recipe, with notes."""

    architecture: Architecture
    notes: tuple[str, ...]
    """what was assumed or left out"""


def find(what: str, recipes: tuple[str, ...] = ()) -> Named:
    """Return a model by a path, `ORG/NAME`, listed name or size. Raises ConfigError for an unknown
    name; `recipes` are offered there too."""
    name = what.strip()
    if size := sizes.parse(name):
        shape = sizes.of(*size)
        return Named(
            architecture=shape.replace(unsure=0.5),
            notes=(
                Phrase(
                    "{} is a size, no model: {} layers of {} by the rule of `onnuri plan budget`",
                    shape.name,
                    shape.layers,
                    shape.hidden,
                ),
                *_untrained(shape),
            ),
        )
    if shapes.listed(name):
        return listed(name)
    from onnuri.planner import hf_config

    if hf_config.names_config(name):
        return _read(name)
    raise unknown(name, recipes)


def unknown(name: str, recipes: tuple[str, ...] = ()) -> ConfigError:
    """Return the error of an unknown name: the nearest recipes and shapes, and what else may stand
    there."""
    plain = {re.sub(r"[^a-z0-9]", "", n.lower()): n for n in (*shapes.names(), *recipes)}
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    near = [n for k, n in plain.items() if key and (k.startswith(key) or key.startswith(k))]
    near += [plain[k] for k in difflib.get_close_matches(key, list(plain), n=4, cutoff=0.4)]
    offered = list(dict.fromkeys(near))[:5] or list(recipes)[:5]
    return ConfigError(
        Phrase("model {!r}", name),
        "is no recipe, listed shape, config.json, folder, ORG/NAME or size",
        Phrase(
            "use {}, a config.json, ORG/NAME, or a size such as 70B or 300B-A15B",
            ", ".join(offered),
        ),
    )


def listed(name: str) -> Named:
    """Return a model of the shipped shapes, with its source as a note."""
    spec = shapes.listed(name) or {}
    source = Phrase("shape from {}", spec["source"])
    if not spec.get("family"):
        return Named(
            architecture=shapes.shape(name), notes=(source, *_untrained(shapes.shape(name)))
        )
    size = sizes.in_name(name) or (7e9, None)
    unsized = "" if sizes.in_name(name) else "; 7B assumed, for the name says no size"
    a = shapes.infer(name, size[0], None)
    return Named(
        architecture=a.replace(unsure=0.5),
        notes=(
            Phrase(
                "{} is a family: {} layers of {} with its traits ({}){}",
                spec["name"],
                a.layers,
                a.hidden,
                spec["source"],
                unsized,
            ),
        ),
    )


def _untrained(a: Architecture) -> tuple[str, ...]:
    """Return a note for architectures that are not like Llama's, which Onnuri's trainer may not
    build; any plain dense one is near enough to it."""
    plain = all(
        b.attention and not b.attention.kv_rank and not b.experts and b.gated for b in a.blocks
    )
    return () if plain else (LAYOUT_ALONE,)


def _read(name: str) -> Named:
    """Return a model read from a config of Hugging Face, with notes on what was left out or
    assumed."""
    from onnuri.planner import hf_config, meta_model

    reading = hf_config.read(name)
    share = meta_model.unplaced_share(reading) + abs(reading.run_again or 0.0)
    a = reading.architecture.replace(unsure=0.0 if share < 0.02 else round(min(1.0, 2 * share), 3))
    trained = () if reading.model_type in stock.FAMILIES else (LAYOUT_ALONE,)
    return Named(
        architecture=a,
        notes=(
            Phrase("shapes of {} as transformers builds it from the config", reading.model_class),
            *meta_model.notes(reading),
            *trained,
        ),
    )


# ---- how it is trained


def training(
    named: Named,
    gpu: Gpu | str | None = None,
    gpus: int | None = None,
    seq_len: int | None = None,
    batch_tokens: int | None = None,
) -> Recipe:
    """Return a recipe of one stage of text for a model that has none; its notes say what was
    assumed."""
    a, notes = named.architecture, list(named.notes)
    tokens = TOKENS_PER_PARAMETER * effective_params(a.num_params(), max(1, a.num_active_params()))
    sequence = seq_len or min(SEQUENCE, a.positions or a.context, a.context)
    check(seq_len, batch_tokens, a)
    flops = tokens * a.flops_per_token(sequence)
    batch = batch_tokens or best_batch(flops, sequence)
    assumed: list[str] = [Phrase("sequences of {:,} tokens (--seq-len)", sequence)] * (
        seq_len is None
    )
    assumed += [Phrase("batches of {:,} tokens (--batch-tokens)", batch)] * (batch_tokens is None)
    assumed += [
        Phrase(
            "{:.3g} tokens of text in all, 20 for each dense parameter it is worth (--tokens)",
            tokens,
        )
    ]
    kind, count = hardware.gpu(gpu or GPU) if gpu is None or isinstance(gpu, str) else gpu, gpus
    if count is None:
        count = _enough(a, kind, flops)
        assumed += [f"{count:,} {kind.name} (--gpu, --gpus)"]
    elif gpu is None:
        assumed += [f"{kind.name} (--gpu)"]
    notes.append(Phrase("assumed, for it is no recipe: {}", joined("; ", assumed)))
    stage = TrainingStage(
        name="text", tokens=tokens, tokens_per_sequence=sequence, batch_tokens=batch
    )
    return text_recipe(a, stage, kind.name, count, notes=tuple(notes), own_layout=False)


def check(seq_len: int | None, batch_tokens: int | None, a: Architecture | None = None) -> None:
    """Raise ConfigError for a sequence length or a batch, in tokens, that is out of range or does
    not fit together or to the model."""
    for flag, value in (("--seq-len", seq_len), ("--batch-tokens", batch_tokens)):
        if value is not None and not 1 <= value <= MOST_TOKENS:
            raise ConfigError(
                f"{flag} {value}",
                Phrase("is not from 1 to {:,} tokens", MOST_TOKENS),
                "give such as 4096",
            )
    if a and seq_len and a.positions and seq_len > a.positions:
        raise ConfigError(
            f"--seq-len {seq_len}",
            Phrase("is more than the {:,} positions that {} learns", a.positions, a.name),
            Phrase("give at most {}", a.positions),
        )
    if seq_len and batch_tokens and batch_tokens % seq_len:
        raise ConfigError(
            f"--batch-tokens {batch_tokens}",
            Phrase("is not whole sequences of {:,} tokens", seq_len),
            Phrase("give a multiple of {}", seq_len),
        )


def changed(recipe: Recipe, seq_len: int | None, batch_tokens: int | None) -> Recipe:
    """Return a recipe whose stages all have the sequence and the batch that the user sets; without
    either, the recipe as it is."""
    check(seq_len, batch_tokens, recipe.architecture)
    if not (seq_len or batch_tokens):
        return recipe
    stages = []
    for stage in recipe.stages:
        sequence = seq_len or stage.tokens_per_sequence
        batch = batch_tokens or max(1, round(stage.batch_tokens / sequence)) * sequence
        check(sequence, batch)
        stages.append(stage.replace(tokens_per_sequence=sequence, batch_tokens=batch))
    note = "all stages have the sequences and batches that were asked for"
    return recipe.replace(stages=tuple(stages), notes=(*recipe.notes, note))


def _enough(a: Architecture, kind: Gpu, flops: float) -> int:
    """Return the power of two of GPUs that holds the model's state in half its memory and trains it
    in about a month."""
    for_memory = 18 * a.num_params() / (0.5 * kind.memory_bytes)
    for_time = flops / (0.4 * kind.bf16_tflops * 1e12 * DAYS * 86_400)
    count = 8
    while count < min(65_536, max(for_memory, for_time)):
        count *= 2
    return count
