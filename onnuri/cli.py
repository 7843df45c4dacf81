"""The command line: one small dataclass a verb, no logic. Imports lazily, so that `onnuri --help`
is quick.

A user's mistake prints one line on stderr and exits with status 2; a traceback is a bug of ours.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import io
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from onnuri.errors import OnnuriError
from onnuri.modality import Language, Modality
from onnuri.planner.parallel import Precision
from onnuri.server.settings import ServeConfig
from onnuri.training.finetune_config import FinetuneConfig

if TYPE_CHECKING:
    from onnuri.planner.hardware import Cluster
    from onnuri.planner.latency import Demand
    from onnuri.planner.own_cluster import Own
    from onnuri.planner.recipe import Recipe

Alias = tyro.conf.arg
TYPED: contextvars.ContextVar[str] = contextvars.ContextVar("typed", default="")
"""the command as it was typed, which a page shows"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How codes are drawn. The defaults are those of the model's folder."""

    seed: int = 0
    """same seed, same answer"""
    temperature: float | None = None
    """0 always takes the likeliest code; 1 draws as the model believes"""
    top_p: float | None = None
    """keep the likeliest codes that together have this probability, 0 to 1"""
    guidance: float | None = None
    """classifier-free guidance: 1 is none, 2 follows the input more closely"""

    def given(self) -> dict[str, Any]:
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
    """One Korean or English sentence to a picture, speech, a video and a 3D model: writes
    OUT/index.html."""

    sentence: tyro.conf.Positional[str]
    """what is to be seen, such as "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다" """
    out: Annotated[Path, Alias(aliases=["-o"])] = Path("out")
    """folder that is written"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = dataclasses.field(default_factory=Sampling)

    def run(self) -> None:
        from onnuri import demo

        demo.run(self.sentence, self.out, self.model, **self.sampling.given())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate:
    """Any media in, one modality out: `onnuri generate --to shape --image chair.png -o chair.glb`."""

    to: Modality
    """the modality that is wanted"""
    output: Annotated[Path, Alias(aliases=["-o"])]
    """file that is written; its ending says the format"""
    image: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """a PNG, JPEG or any picture of `formats.py`; may be given more than once"""
    audio: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """a WAV, MP3, M4A or any sound of `formats.py`"""
    video: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """an MP4, WebM, GIF or any video of `formats.py`"""
    shape: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """a GLB, OBJ, PLY or STL; an OBJ's materials are read from beside it"""
    text: str | None = None
    """a sentence: a description, a question about the other inputs, or an instruction to change
    them"""
    language: Language | None = None
    """language of a text or speech answer; without it, that of the text given, else Korean"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = dataclasses.field(default_factory=Sampling)

    def run(self) -> None:
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
            **self.sampling.given(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chat:
    """A conversation in the terminal: text, and /image FILE and so on for other media."""

    model: Path | None = None
    """a model's folder; without one, the model that ships"""
    server: str | None = None
    """a running `onnuri serve`, such as http://127.0.0.1:8000, instead of a model that is here"""
    key: str = "none"
    """the server's API key, where it has keys"""
    out: Annotated[Path, Alias(aliases=["-o"])] = Path("out/chat")
    """folder for the media that come back"""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = dataclasses.field(default_factory=Sampling)

    def run(self) -> None:
        from onnuri import chat

        chat.run(self.out, self.model, server=self.server, key=self.key, **self.sampling.given())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serve:
    """OpenAI's API and a page in which anyone can talk in any modality: `onnuri serve`, then open
    what it says."""

    model: tyro.conf.Positional[Path | None] = None
    """a model's folder; without one, the model that ships"""
    settings: tyro.conf.OmitArgPrefixes[ServeConfig] = dataclasses.field(
        default_factory=ServeConfig
    )

    def run(self) -> None:
        from onnuri.server import run

        run.serve(self.settings, self.model)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddKey:
    """Make an API key; it is shown once and kept as a hash."""

    name: tyro.conf.Positional[str]
    """whose it is"""
    requests_per_minute: int = 0
    """0: any number"""
    tokens_per_minute: int = 0
    """of all media together; 0: any number"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListKeys:
    """The keys there are, and what they used in the last hour."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RevokeKey:
    """Take a key back."""

    key: tyro.conf.Positional[str]
    """its id or its name, as `onnuri keys list` shows them"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keys:
    """API keys of a server. Until one is made, callers on this machine need none, and others are
    not served."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[AddKey, tyro.conf.subcommand("add")]
        | Annotated[ListKeys, tyro.conf.subcommand("list")]
        | Annotated[RevokeKey, tyro.conf.subcommand("revoke")]
    ]
    data: Path = Path("onnuri-data")
    """the server's folder"""
    database: str = ""
    """the server's database, if it has another than that folder's"""

    def run(self) -> None:
        from onnuri.server import keys

        keys.run(self.what, ServeConfig(data=self.data, database=self.database))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Write the model as a Hugging Face folder, codecs beside it; plain transformers loads it."""

    folder: tyro.conf.Positional[Path]
    """folder that is written"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""

    def run(self) -> None:
        from onnuri import load

        load(self.model).save(self.folder)
        print(f"wrote {self.folder}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Data, codecs and model, from nothing. Interrupt it when you like: the same command goes
    on."""

    recipe: tyro.conf.Positional[
        Literal["laptop", "axk1", "solar_open", "k_exaone", "vaetki", "hyperclovax_omni", "axk2"]
    ]
    """a recipe of onnuri/recipes"""
    preset: Literal["full", "evening", "words", "nano", "smoke", "words-smoke"] | None = None
    """laptop: full, at most 6 hours on two cores (default), evening, 2 hours, or words, which goes
    on from the weights that ship with the wordings of people; the others: nano, 20 minutes after a
    table that they share; all: smoke, to see that everything runs"""
    out: Annotated[Path | None, Alias(aliases=["-o"])] = None
    """folder of the run; runs/RECIPE-PRESET without it"""

    def run(self) -> None:
        from onnuri import recipes

        recipes.train(self.recipe, self.preset, self.out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune:
    """Teach any causal language model of transformers the answers of conversations: `onnuri train
    finetune --base DIR --data chat.jsonl`. Interrupt it when you like: the same command goes on.
    OUT/model is a folder that plain from_pretrained reads."""

    settings: tyro.conf.OmitArgPrefixes[FinetuneConfig]
    out: Annotated[Path | None, Alias(aliases=["-o"])] = None
    """folder of the run; runs/finetune-NAME without it, NAME being the base's"""

    def run(self) -> None:
        from onnuri.training.finetune import finetune

        name = Path(self.settings.base).resolve().name
        finetune(self.settings, self.out or Path("runs") / f"finetune-{name}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """A model from nothing (`onnuri train laptop`), or more for one that there is (`onnuri train
    finetune --base DIR --data chat.jsonl`)."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[TrainRecipe, tyro.conf.subcommand("recipe")]
        | Annotated[Finetune, tyro.conf.subcommand("finetune")]
    ]

    def run(self) -> None:
        self.what.run()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matrix:
    """The any-to-any matrix: every modality to every modality, judged by oracles that know nothing of
    the model."""

    items: int = 100
    """items a cell and split"""
    json: Path | None = None
    """file for the figures; the heat map and the page with samples are written beside it"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""

    def run(self) -> None:
        from onnuri.recipes import evaluate

        evaluate.matrix(self.model, self.items, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sentences:
    """Whole scenes from words: changed in one way each, in wordings that training never used, by
    relation and by objects."""

    items: int = 100
    """scenes a row"""
    to: Modality = "image"
    """what the words become: image, video or shape"""
    json: Path | None = None
    """file for the figures"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""

    def run(self) -> None:
        from onnuri.recipes import evaluate

        evaluate.sentences(self.model, self.items, self.to, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codecs:
    """Quality of every codec on held-out data: PSNR, SSIM, STOI, IoU and so on."""

    items: int = 100
    """items a modality and split"""
    json: Path | None = None
    """file for the figures"""
    model: Path | None = None
    """a model's folder; without one, the model that ships"""

    def run(self) -> None:
        from onnuri.recipes import evaluate

        evaluate.codecs(self.model, self.items, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """Whether a run's token table holds any held-out composition: records and texts of all rows,
    codes of some."""

    folder: tyro.conf.Positional[Path]
    """a run's folder, that `onnuri train` wrote"""
    every: int = 40
    """one row in so many has its picture and shape decoded and seen by the oracles"""
    json: Path | None = None
    """file for the figures"""

    def run(self) -> None:
        from onnuri.recipes import evaluate

        evaluate.table(self.folder, self.every, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a model, its codecs, or what it was trained on."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[Matrix, tyro.conf.subcommand("matrix")]
        | Annotated[Codecs, tyro.conf.subcommand("codecs")]
        | Annotated[Sentences, tyro.conf.subcommand("words")]
        | Annotated[Scan, tyro.conf.subcommand("table")]
    ]

    def run(self) -> None:
        self.what.run()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanReport:
    """Where the answer goes."""

    json: Path | None = None
    """file for the figures"""
    html: Path | None = None
    """file for a page with drawings"""
    language: Language = "en"
    """of the text and the page"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnClusterFlags:
    """Your cluster, where it is not the hardware table's. Flags count before the file."""

    cluster: Path | None = None
    """a TOML file: gpu, gpus and the keys below with _ for -; or a table [gpu] with a GPU of your
    own (docs/planner-plan.md)"""
    price_usd: float | None = None
    """what a GPU hour costs you, in dollars"""
    nic_gbps: float | None = None
    """network of a GPU to other nodes, one way, in gigabits a second, such as 400"""
    nvlink_gbps: float | None = None
    """fast links of a GPU, one way, in gigabytes a second: 450 for an H100, of whose 900 data
    sheets speak"""
    gemm_tflops: float | None = None
    """what large bf16 products reach when you measure them"""
    gemm_fp8_tflops: float | None = None
    """the same of fp8 products"""
    gpus_per_node: int | None = None
    """they fail together and fast links join them"""
    nvlink_domain: int | None = None
    """GPUs that fast links join, where that is not a node, such as 72"""
    power_w: float | None = None
    """of a GPU; below the table's it is a cap, and products slow down"""
    memory_gib: float | None = None
    """of a GPU, as it says itself, such as 79.1"""
    memory_tb_per_s: float | None = None
    """of a GPU's memory, 1e12 bytes a second"""
    compiled: bool = False
    """Onnuri's own step runs the kernels that PyTorch's compiler fuses"""

    def said(self, gpu: str | None, gpus: int | None) -> Own:
        """What these flags and the file say."""
        from onnuri.planner import own_cluster

        said = {**dataclasses.asdict(self), "compiled": self.compiled or None}
        path = said.pop("cluster")
        below = own_cluster.read(path) if path else own_cluster.Own()
        return below.beneath(own_cluster.Own(gpu=gpu, gpus=gpus, **said))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingFlags:
    """Serving within limits of latency."""

    isl: int | None = None
    """tokens of a prompt (input sequence length)"""
    osl: int | None = None
    """tokens of an answer (output sequence length)"""
    ttft: str | None = None
    """time to the first token, at most: 500 or 500ms, or 2s"""
    tpot: str | None = None
    """time between tokens after it, at most: 30 or 30ms"""
    prompts_per_token: float | None = None
    """prompt tokens read anew for each token of an answer, where prefixes are cached; without it
    isl / osl"""

    def made(self) -> Demand | None:
        """What is demanded; None where nothing is."""
        from onnuri.planner import latency

        return latency.demand(self.isl, self.osl, self.ttft, self.tpot, self.prompts_per_token)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRecipe:
    """What training a model takes: memory, step time, days, dollars, failures, loss, serving, each
    with its range."""

    recipe: tyro.conf.Positional[str]
    """a system of `onnuri plan recipes`; a Python file with a function recipe(); a config.json of
    Hugging Face, its folder or ORG/NAME; a listed shape such as llama3-70b; or a size such as 70B
    or 300B-A15B"""
    gpu: str | None = None
    """such as H200; without it, the recipe's own"""
    gpus: int | None = None
    """how many; without it, the recipe's own"""
    days: float | None = None
    """train as many tokens as this allows"""
    tokens: str | None = None
    """train so many, such as 10T; without it and --days, what the recipe says"""
    budget_usd: float | None = None
    """train as many tokens as this allows at list prices"""
    seq_len: int | None = None
    """tokens of a training sequence; without it, the recipe's own, or 4,096 at most"""
    batch_tokens: int | None = None
    """tokens of an optimizer step, all ranks together; without it, the recipe's own, or by a law"""
    layout: str | None = None
    """such as dp=1024,ep=64,fsdp,recompute=full,bf16, or "own" for the recipe's; without it, all
    are searched"""
    precision: tyro.conf.UseAppendAction[tuple[Precision, ...]] = ()
    """that the search may use; may be given more than once; without it, the recipe's own"""
    software_year: float | None = None
    """year of the training software, such as 2025.9; without it, of the newest published run"""
    engines: Literal["here", "any"] = "here"
    """whose layouts are planned: those that run here where there is one, or the fastest of any
    engine"""
    exact_gpus: bool = False
    """use all GPUs, also where fewer train more"""
    cache: bool = True
    """keep what was searched, and take it from there when only days, tokens or dollars change"""
    gpus_for: str | None = None
    """find the fewest GPUs that train all tokens in this time: 30d, 6w or 72h (in place of
    --gpus)"""
    own: tyro.conf.OmitArgPrefixes[OwnClusterFlags] = dataclasses.field(
        default_factory=OwnClusterFlags
    )
    serve: tyro.conf.OmitArgPrefixes[ServingFlags] = dataclasses.field(default_factory=ServingFlags)
    report: tyro.conf.OmitArgPrefixes[PlanReport] = dataclasses.field(default_factory=PlanReport)

    def run(self) -> None:
        import onnuri
        from onnuri import recipes
        from onnuri.planner import progress, report, saved, words

        own, demand = self.own.said(self.gpu, self.gpus), self.serve.made()
        recipe = recipes.resolve(self.recipe, own.kind(), own.gpus, self.seq_len, self.batch_tokens)
        cluster = own.cluster(recipe.gpu, recipe.gpus)
        if self.gpus_for:
            self._fewest(recipe, cluster, demand)
            return
        with progress.SearchProgress(self.report.language) as shown:
            found = onnuri.plan(
                recipe,
                cluster,
                layout=self.layout,
                tokens=words.count(self.tokens),
                days=self.days,
                budget_usd=self.budget_usd,
                precisions=self.precision or None,
                software_year=self.software_year,
                engines=self.engines,
                exact_gpus=self.exact_gpus,
                report=shown,
                cache=saved.folder() if self.cache else None,
                serve=demand,
            )
        report.write(
            found,
            **dataclasses.asdict(self.report),
            systems=recipes.summary() if self.report.html else (),
            command=TYPED.get(),
        )

    def _fewest(self, recipe: Recipe, cluster: Cluster, demand: Demand | None) -> None:
        """Answer how many GPUs."""
        from onnuri import recipes
        from onnuri.errors import ConfigError
        from onnuri.planner import inverse, progress, report, saved, words

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
        days, tokens = inverse.duration("gpus-for", self.gpus_for or ""), words.count(self.tokens)
        with progress.SearchProgress(self.report.language) as shown:
            found = inverse.fewest(
                recipe,
                cluster,
                days,
                tokens,
                precisions=self.precision or None,
                software_year=self.software_year,
                engines=self.engines,
                exact_gpus=self.exact_gpus,
                report=shown,
                cache=saved.folder() if self.cache else None,
                serve=demand,
            )
        report.write(
            found,
            **dataclasses.asdict(self.report),
            systems=recipes.summary() if self.report.html else (),
            command=TYPED.get(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanBudget:
    """Which size for a budget: the five systems and sizes made by rule, their loss, their odds, and
    what serving costs."""

    gpu: str | None = None
    """such as B200; without it, the cluster file's"""
    gpus: int | None = None
    """how many; without it, the cluster file's"""
    days: float | None = None
    """until the date"""
    largest_for: str | None = None
    """find the largest models that are trained fully in this time: 75d, 6w or 72h (in place of
    --days)"""
    tokens: str | None = None
    """with --largest-for: of every size, such as 10T; without it, as many as are optimal, and of a
    system its own"""
    engines: Literal["here", "any"] = "here"
    """whose layouts are compared: those that run here, or all (slower)"""
    exact_gpus: bool = False
    """use all GPUs for every size, also where fewer train more"""
    cache: bool = True
    """keep what was searched, and take it from there when nothing changes that layouts depend on"""
    own: tyro.conf.OmitArgPrefixes[OwnClusterFlags] = dataclasses.field(
        default_factory=OwnClusterFlags
    )
    report: tyro.conf.OmitArgPrefixes[PlanReport] = dataclasses.field(default_factory=PlanReport)

    def run(self) -> None:
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

        systems, cluster = (
            [recipes.find(name) for name in recipes.NAMES],
            self.own.said(self.gpu, self.gpus).cluster(),
        )
        if (self.days is None) == (self.largest_for is None):
            said = "--days and --largest-for" if self.days is not None else "budget"
            raise ConfigError(
                said,
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
            with progress.SearchProgress(self.report.language) as shown:
                largest = inverse.largest(
                    systems,
                    cluster,
                    days,
                    words.count(self.tokens),
                    report=shown,
                    cache=saved.folder() if self.cache else None,
                )
            inverse_report.write(largest, **dataclasses.asdict(self.report), command=TYPED.get())
            return
        if self.tokens is not None:
            raise ConfigError(
                f"--tokens {self.tokens}",
                "stands beside --days, which says how many",
                "give --largest-for instead",
            )
        with progress.SearchProgress(self.report.language) as shown:
            found = budget.budget(
                systems,
                cluster,
                self.days or 0.0,
                self.engines,
                shown,
                saved.folder() if self.cache else None,
                self.exact_gpus,
            )
        budget_report.write(found, **dataclasses.asdict(self.report), command=TYPED.get())


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRecipes:
    """The systems that are recipes, what they count and what their teams published."""

    json: Path | None = None
    """file for the figures"""

    def run(self) -> None:
        from onnuri import recipes
        from onnuri.planner import report

        report.write_recipes(recipes.summary(), self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConstants:
    """The constants of speed and memory, with unit, prior and source."""

    def run(self) -> None:
        from onnuri.planner import constants

        print(constants.table())


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanValidate:
    """Predict every row of a table of published runs without looking at its value, and compare."""

    runs: tyro.conf.Positional[Path]
    """a CSV with the columns of published_runs.csv"""
    memory: bool = False
    """the table is of measured memory, with the columns of published_memory.csv"""
    json: Path | None = None
    """file for the figures"""

    def run(self) -> None:
        from onnuri.calibration import validate

        validate.run(self.runs, self.memory, self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanDryRun:
    """The real training step at full size without a GPU: one rank's memory, products and messages
    beside the plan's."""

    recipe: tyro.conf.Positional[str]
    """a system of `onnuri plan recipes`"""
    gpus: int | None = None
    """how many; without it, the recipe's own"""
    layout: str | None = None
    """as `onnuri plan` writes it; without it, the recipe's own"""
    rank: int = 0
    """whose step is traced"""
    whole: bool = False
    """trace every layer, though the figures of equal layers follow from a few of them: the same
    answer, later"""
    json: Path | None = None
    """file for the figures"""

    def run(self) -> None:
        from onnuri import files, recipes
        from onnuri.planner import parallel
        from onnuri.profile import dryrun, plan_vs_trace

        files.check_place(self.json)
        recipe = recipes.find(self.recipe)
        gpus = recipe.gpus if self.gpus is None else self.gpus
        asked = parallel.parse(self.layout, gpus) if self.layout else None
        found = dryrun.run(recipe, gpus, layout=asked, rank=self.rank, whole=self.whole)
        print(
            f"{found}\n\n{plan_vs_trace.text(plan_vs_trace.pairs(found, recipe.omni, recipe.gpu))}"
        )
        if self.json:
            files.write_json(found.to_json(), self.json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanFreeze:
    """Write the planner's answer for a recipe's own layout beside the recipe, so that a change of
    it is seen."""

    recipe: tyro.conf.Positional[str]
    """a system of `onnuri plan recipes`, or "all" """

    def run(self) -> None:
        import onnuri
        from onnuri import recipes

        for name in recipes.NAMES if self.recipe == "all" else (self.recipe,):
            onnuri.plan(name, layout="own").save(recipes.frozen(name))
            print(f"wrote {recipes.frozen(name)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """What a GPU budget can train, how and by when: `onnuri plan axk1 --gpu H200 --gpus 1024 --days
    75`."""

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
        self.what.run()


VERBS = {
    "plan": ("recipe", "budget", "recipes", "constants", "validate", "dry-run", "freeze"),
    "train": ("recipe", "finetune"),
}
"""a recipe's name needs none of them: `plan axk1`, `train laptop`"""

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Chat, tyro.conf.subcommand("chat")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Keys, tyro.conf.subcommand("keys")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[PlanCommand, tyro.conf.subcommand("plan")]
)


def parse(
    arguments: Sequence[str] | None = None,
) -> Demo | Generate | Chat | Serve | Keys | Export | Train | Evaluate | PlanCommand:
    """The command that the arguments name. A mistake raises SystemExit(2) after one line on
    stderr."""
    complaint = io.StringIO()
    given = list(sys.argv[1:] if arguments is None else arguments)
    verbs = VERBS.get(given[0], ()) if given else ()
    if verbs and given[1:] and given[1] not in (*verbs, "--help", "-h"):
        # --largest-for asks for a model, so names none
        largest = any(argument.split("=")[0] == "--largest-for" for argument in given)
        given.insert(1, "budget" if largest and given[0] == "plan" else "recipe")
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                Command,
                prog="onnuri",
                args=given,  # type: ignore[call-overload, no-any-return]
                config=(
                    tyro.conf.CascadeSubcommandArgs,
                ),  # `keys list --data D` too, not `keys --data D list` alone
                description="온누리: text, image, audio, video and 3D, each understood and generated.",
            )
    except SystemExit as stop:
        if stop.code:
            print(f"onnuri: {misused(one_line(complaint.getvalue()), given)}", file=sys.stderr)
        raise


def misused(line: str, given: list[str]) -> str:
    """The parser's complaint as a value, a rule and a repair, in Korean where that was asked for;
    else as it is."""
    from onnuri import usage

    error = usage.mistake(line)
    if error is None or given[:1] != ["plan"] or usage.language(given) != "ko":
        return str(error or line)
    from onnuri.planner import words

    return words.complaint(error, "ko")


def one_line(box: str) -> str:
    """tyro's boxed complaint as one line: rules between its parts become semicolons, borders go."""
    parts = [
        " ".join(re.findall(r"[^│╭╮╰╯\s]+", line.replace("─", "")))
        for line in re.sub(r"[╭╰].*[╮╯]|│ ─+ │|-{8,}", "\n;\n", box).splitlines()
    ]
    return re.sub(r"\s*;(\s*;)*\s*", "; ", " ".join(p for p in parts if p)).strip("; ")


def said(error: OnnuriError, command: object) -> str:
    """The one line of an error, in the language of the report that was asked for."""
    report = getattr(getattr(command, "what", None), "report", None)
    if not isinstance(report, PlanReport):
        return str(error)
    from onnuri.planner import words

    return words.complaint(error, report.language)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `onnuri` command."""
    TYPED.set(shlex.join(["onnuri", *(sys.argv[1:] if arguments is None else arguments)]))
    command = parse(arguments)
    try:
        command.run()
    except OnnuriError as error:
        print(f"onnuri: {said(error, command)}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # whoever read has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        print("onnuri: interrupted; the same command goes on where it can", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
