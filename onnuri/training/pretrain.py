"""This module trains any causal language model of transformers on a team's own text: from random
weights, or further from those that it has.

Text is what `onnuri tokenize` wrote. Its documents are packed end to end into rows, without
attention from one to another, and a step has the same rows whatever ranks and worker processes read
them. The result is a folder that plain transformers reads, with its tokenizer. The module knows no
model family: whether a class can be trained in packed rows is tried, not looked up.

    OUT/run.json        the settings; the same command resumes from OUT/checkpoint
    OUT/metrics.jsonl   loss and speed
    OUT/model/          the model
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from onnuri import files
from onnuri.data.document_store import DocumentStore, StoreRows
from onnuri.data.loader import BatchRamp, RowMixture
from onnuri.data.schedule import MixtureStage
from onnuri.errors import ConfigError
from onnuri.model.balance import Balance
from onnuri.model.base import (
    has_weights,
    load_base,
    load_tokenizer,
    longest_sequence,
    reads_packed_rows,
    restore_dtypes,
    save_base,
)
from onnuri.model.objective import RowObjective
from onnuri.model.trial_copy import trial_copy
from onnuri.model.written_weights import written_weights
from onnuri.parallel import group, launch
from onnuri.parallel.apply import check_compiles, check_divides, experts_of
from onnuri.parallel.fill import give_memory
from onnuri.parallel.model import ParallelModel
from onnuri.parallel.whole import copy_weights
from onnuri.planner.parallel import ParallelConfig
from onnuri.training import state
from onnuri.training.export import export
from onnuri.training.load import Loader
from onnuri.training.loop import TrainConfig, fit
from onnuri.training.memory_check import check_host_memory, check_memory
from onnuri.training.pretrain_config import PretrainConfig, TrainingData, read_data
from onnuri.training.record_config import NO_RECORD, RecordConfig
from onnuri.training.run_settings import RUN, check_same_run
from onnuri.training.tokenize import vocabulary_name

ANYWHERE = ("layout", "workers", "compiled")
"""settings that change no weight but for rounding: a run may go on with others"""


class Stores(NamedTuple):
    """A Stores holds the opened stores of a run."""

    sources: dict[str, DocumentStore]
    stages: tuple[MixtureStage, ...]
    held_out: DocumentStore | None

    @property
    def tokens(self) -> int:
        """Return the ids of all sources that are trained on."""
        used = {name for stage in self.stages for name, weight in stage.weights.items() if weight}
        return sum(store.tokens for name, store in self.sources.items() if name in used)


def pretrain(
    model: Path, config: PretrainConfig, out: Path, record: RecordConfig = NO_RECORD
) -> None:
    """Train the model of a folder on stores of text and write it to OUT/model, resuming a run that
    was interrupted; under torchrun in every rank. `record` says what is recorded beside the
    figures.

    Raises ConfigError for data or settings that cannot be used and for a folder of another run, and
    WeightsError for a model that cannot be loaded.
    """
    config.check()
    record.check()
    data = read_data(Path(config.data))
    with launch.ranks():
        layout = launch.layout(config.layout)
        BatchRamp(rows=config.rows).check(layout.dp if layout else 1)
        tokenizer = load_tokenizer(model)
        network = load_base(model, device="meta", dtype=torch.float32)
        _check_model(network, config, layout)
        computing = launch.computing(layout, config.compiled)
        stores = open_stores(data, config.tokens, vocabulary_name(tokenizer))
        _check_vocabulary(network, stores)
        settings = _check_run(model, config, stores, out)
        with launch.first_rank_first("checks"):
            if launch.is_first():
                _check_packed_rows(model)
        launch.join()
        loop = train_config(config, stores, data.rows).replace(record=record)
        objective = _objective(network, config, stores)
        trainee = _load(model, objective, config, layout, computing, out)
        with group.failing_together():
            # only now: a run that never began must not stand in the way of the next
            if launch.is_first():
                files.write_json(settings, out / RUN)
        _print_summary(network, stores, loop, config)
        say = _held_out_printer(stores.held_out, config)
        trained = fit(objective, loop, out, "pretrain", trainee, lambda model: say(model, "before"))
        say(trained, "after")
        _write(trained, tokenizer, model, out / "model")
        launch.console().print(f"wrote {out / 'model'}: from_pretrained reads it", soft_wrap=True)


def _objective(network: nn.Module, config: PretrainConfig, stores: Stores) -> RowObjective:
    """Return the objective of a network on the rows of all stages."""
    rows = {
        name: StoreRows(store, config.tokens, config.seed) for name, store in stores.sources.items()
    }
    return RowObjective(network, RowMixture(rows, stores.stages))


def _load(
    folder: Path,
    objective: RowObjective,
    config: PretrainConfig,
    layout: ParallelConfig | None,
    computing: launch.Computing,
    out: Path,
) -> ParallelModel:
    """Return an objective's model, which has no values as yet, spread over the ranks of a layout,
    with the weights of a folder or random ones; a run that resumes reads its own later.

    Raises ConfigError for a layout that does not fit the model, and for a model that does not fit
    in memory, before anything is allocated.
    """
    device, dtype, compiled = computing
    network = objective.module
    loader = Loader(folder, network, config.seed, resumes=state.latest(out) is not None)
    model = ParallelModel(network, objective.loss, layout, dtype, compiled, device)
    check_memory(str(folder), model, config.optimizer == "muon")
    if loader.why_whole:
        check_host_memory(loader.why_whole, model)
        if group.ranks() > 1:
            launch.console().print(
                f"the first rank loads the whole model and sends it to the others: "
                f"{loader.why_whole}",
                soft_wrap=True,
            )
    give_memory(model.root, model.device, model.weights_device)
    loader.load(network, model.meshes)
    return model


def _write(model: ParallelModel, tokenizer: Any, base: Path, folder: Path) -> None:
    """Write a trained model as a folder, by all ranks; each weight has the dtype that it has in the
    folder `base` from which the model came. Every rank must call this.

    Raises ConfigError if the folder cannot be written.
    """
    dtypes = {n: t.dtype for n, t in load_base(base, device="meta").state_dict().items()}
    try:
        written_weights(model.network, dtypes)
    except ConfigError:  # transformers computes what it stores: by the first rank, from the whole
        whole = load_base(base, device="meta", dtype=torch.float32)
        if launch.is_first():
            give_memory(whole, torch.device("cpu"))
        copy_weights(model.network, whole)
        with group.failing_together():
            if launch.is_first():
                restore_dtypes(whole, base)
                save_base(whole, tokenizer, None, folder)
        return
    export(model.network, folder, model.meshes, dtype=dtypes, write_more=tokenizer.save_pretrained)


def open_stores(data: TrainingData, tokens: int, ids_from: str) -> Stores:
    """Return the opened stores of a run, and its stages. Raises ConfigError for a folder without a
    store, ids of another tokenizer, and a store that is shorter than a row of `tokens` ids."""
    sources = {name: _open(folder, tokens, ids_from) for name, folder in data.sources.items()}
    by_ids = MixtureStage(weights={name: store.tokens for name, store in sources.items()})
    held_out = _open(data.held_out, tokens, ids_from) if data.held_out else None
    return Stores(sources, data.stages or (by_ids,), held_out)


def _open(folder: str, tokens: int, ids_from: str) -> DocumentStore:
    """Return an opened store. Raises ConfigError if it holds less than a row."""
    store = DocumentStore(Path(folder), ids_from)
    if store.tokens < tokens:
        raise ConfigError(
            folder,
            f"holds {store.tokens} ids, less than one row of {tokens}",
            f"give more text, or --tokens {store.tokens} at most",
        )
    return store


def train_config(config: PretrainConfig, stores: Stores, rows: int | None) -> TrainConfig:
    """Return the training loop's settings; `rows` is the number of all stages' rows, None if the
    last stage has no end."""
    all_rows = rows or stores.tokens // config.tokens
    steps = config.steps or max(1, all_rows // config.rows)
    return TrainConfig(
        steps=steps,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay=config.decay,
        weight_decay=config.weight_decay,
        micro_batches=config.rows,
        loader_workers=config.workers,
        seed=config.seed,
        log_every=max(1, min(20, steps // 10)),
    )


def _check_model(outline: Any, config: PretrainConfig, layout: ParallelConfig | None) -> None:
    """Raise ConfigError for rows that are longer than a model's sequences, and for a layout that
    does not divide it or cannot be compiled; the `outline` has shapes alone."""
    longest = longest_sequence(outline)
    if config.tokens > longest:
        raise ConfigError(
            f"--tokens {config.tokens}",
            f"is more than the model's longest sequence of {longest}",
            f"give at most {longest}",
        )
    if layout:
        check_divides(outline.config, layout)
        if config.compiled:
            check_compiles(layout)


def _check_vocabulary(network: Any, stores: Stores) -> None:
    """Raise ConfigError if a store has ids for which the model's embedding has no row."""
    rows = network.get_input_embeddings().num_embeddings
    held_out = [stores.held_out] if stores.held_out else []
    for store in (*stores.sources.values(), *held_out):
        if store.vocabulary > rows:
            raise ConfigError(
                str(store.folder),
                f"has {store.vocabulary} ids, and the model's embedding {rows} rows",
                "set vocab_size in the model's config.json to at least as many",
            )


def _check_run(model: Path, config: PretrainConfig, stores: Stores, out: Path) -> dict[str, Any]:
    """Return what OUT/run.json holds for these settings. Raises ConfigError if the folder is
    another run's or its file is damaged."""
    settings = {k: v for k, v in config.to_json().items() if k not in ANYWHERE}
    # content, not names: a run must not resume on data or a model that has changed
    settings["model"] = hashlib.sha256((model / "config.json").read_bytes()).hexdigest()
    settings["data"] = {
        "sources": {name: store.digest for name, store in stores.sources.items()},
        "stages": [stage.to_json() for stage in stores.stages],
        "held_out": stores.held_out.digest if stores.held_out else None,
    }
    check_same_run(out, settings)
    return settings


def _check_packed_rows(folder: Path) -> None:
    """Raise ConfigError for a class that cannot be trained in packed rows."""
    network = trial_copy(folder)
    if network is None:
        network = load_base(folder, weights=has_weights(folder), dtype=torch.float32)
    if not reads_packed_rows(network):
        raise ConfigError(
            f"{folder}",
            f"is a {type(network).__name__} that packed rows do not train as it computes "
            "(attention that is capped or has sinks, or a class of another build)",
            "give a class such as Llama, Mistral or Qwen",
        )


def _held_out_printer(
    store: DocumentStore | None, config: PretrainConfig
) -> Callable[[ParallelModel, str], None]:
    """Return a function that prints a model's loss on the rows of a held-out store, with the word
    "before" or "after"; it does nothing without a store. Every rank must call it."""
    rows = []
    if store is not None:
        source = StoreRows(store, config.tokens)
        count = min(config.held_out_rows, store.tokens // config.tokens)
        rows = [source.row(index) for index in range(count)]

    def say(model: ParallelModel, when: str) -> None:
        """Print the loss on the held-out rows."""
        if rows:
            loss = model.mean_loss(rows)
            launch.console().print(
                f"held out: loss {loss:.3f} per token {when}", highlight=False, soft_wrap=True
            )

    return say


def _print_summary(network: Any, stores: Stores, loop: TrainConfig, config: PretrainConfig) -> None:
    """Print the sizes of model, data and run in one line, and what is not done for the model."""
    params = sum(p.numel() for p in network.parameters())
    documents = sum(len(store) for store in stores.sources.values())
    ids = (loop.steps or 0) * config.rows * config.tokens
    launch.console().print(
        f"{type(network).__name__}, {params / 1e6:,.1f}M parameters; {documents:,} documents, "
        f"{stores.tokens:,} ids; {loop.steps:,} steps of {config.rows} rows of {config.tokens}: "
        f"{ids / stores.tokens:.2f} times all ids",
        highlight=False,
        soft_wrap=True,
    )
    if experts_of(network.config) and not Balance(network).routers:
        launch.console().print("the model's experts are not balanced: their routers are not known")
