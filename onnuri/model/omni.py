"""This module holds the any-to-any model: a backbone of transformers, its token layout and the
codecs, saved in one folder.

    folder/config.json, model.safetensors, tokenizer.json …   a Hugging Face folder
    folder/codecs/…/        the codecs, with what their codes look like (`spec-*.json`)
    folder/onnuri.json      token layout, sampling defaults, hashes of weights and settings

The layout and the specs that were saved are the only truth about a model's ids: no default of the
code is used at load. The module knows the files and the codecs; `answer.py` builds prompts, and the
decoding engine samples.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from onnuri.codecs import registry
from onnuri.errors import ConfigError, OnnuriError, WeightsError
from onnuri.files import whole_folder
from onnuri.inference.device import DeviceName, find, place
from onnuri.inference.engine import Engine, EngineConfig
from onnuri.inference.request import SamplingConfig, TokenConstraint
from onnuri.modality import MEDIA, Language, Modality
from onnuri.model import backbone
from onnuri.model.answer import Answers, Context, Inputs, known, run_pipelines
from onnuri.model.asking import language_asked, task_of
from onnuri.model.front_end import UNNAMED, FrontEnd, Notice, front_end_class
from onnuri.model.token_layout import TokenLayout

FORMAT = 2
"""version of onnuri.json; version 1 had no layout, and ids were those of a table in the code"""
HASHED = (
    "*.safetensors",
    "tokenizer.json",
    "words.json",
    "codecs/*/config.json",
    "codecs/*/spec-*.json",
)
"""files of a model's folder that determine its answers, and whose hashes are checked at load"""
SAMPLING: dict[str, SamplingConfig] = {
    "text": SamplingConfig(temperature=0.0),
    "image": SamplingConfig(temperature=0.2, guidance=1.5),
    "audio": SamplingConfig(temperature=0.2, top_p=0.9),
    "video": SamplingConfig(temperature=0.0, guidance=2.0),
    "shape": SamplingConfig(temperature=0.0),
}


@dataclasses.dataclass(frozen=True)
class Reply:
    """A Reply holds an answer, and what the model did not know of the inputs."""

    item: Any
    """a text, or a modality's array"""
    language: Language
    notices: tuple[Notice, ...] = ()
    model: str | None = None
    """which of several models answered (`router.py`)"""
    logprob: float | None = None
    """mean log probability of the ids that were drawn for the answer; None if none was"""

    @property
    def told(self) -> list[str]:
        """Return the notices' messages, without one that is the answer itself."""
        answer = self.item if isinstance(self.item, str) else None
        return [notice.message for notice in self.notices if notice.message != answer]


def load_codecs(folder: Path, needed: Sequence[str] = MEDIA) -> dict[str, Any]:
    """Return every codec of a folder `codecs/` by name, those of the five media first; image and
    video of the toy world share their networks.

    Raises WeightsError if one of those `needed` is missing, or any cannot be read.
    """
    codecs: dict[str, Any] = dict(registry.load(folder, MEDIA))
    if missing := [name for name in needed if name not in codecs]:
        raise WeightsError(
            str(folder),
            f"holds codecs that cannot be read (no codec of {', '.join(missing)})",
            "give a folder that `onnuri train` or `export` wrote",
        )
    return codecs


def new_layout(codecs: dict[str, Any], tasks: bool = False) -> TokenLayout:
    """Return the token layout of a new model with some codecs; `tasks` adds a token per task, which
    says what is asked."""
    media = [name for name in MEDIA if name in codecs]
    names = [*media, *(name for name in codecs if name not in MEDIA)]
    return TokenLayout.of([codecs[name].spec for name in names], tasks)


class OmniModel:
    """An OmniModel takes inputs of any modalities and generates an item of any modality."""

    def __init__(
        self,
        network: nn.Module,
        codecs: dict[str, Any],
        layout: TokenLayout | None = None,
        sampling: dict[str, SamplingConfig] | None = None,
        dtype: torch.dtype | None = None,
        front_end: FrontEnd | None = None,
        device: DeviceName = "cpu",
    ) -> None:
        """Join a causal language model and codecs by name.

        `layout` assigns the network's ids; without it, a new one is made for the codecs. `sampling`
        are settings by modality. `dtype` is that in which weights are saved; without it,
        `backbone.save` decides. `front_end` reads sentences; without it, they stay as they are.
        `device` is where the network and large codecs run. Raises ConfigError where there is none.
        """
        self.device = device
        if device != "cpu":
            where = find(device)
            place(network, where)
            for codec in codecs.values():
                if codec.on_gpu:
                    codec.to(where)
        self.network, self.codecs, self.dtype = network.eval(), codecs, dtype
        self.layout = layout or new_layout(codecs)
        asked = sampling or SAMPLING
        self.sampling = {name: asked.get(name, SamplingConfig()) for name in self.layout.names}
        self.front_end = front_end or FrontEnd()
        positions = backbone.positions(network)
        self.answers = Answers(self.layout, codecs, positions, self.front_end)

    @functools.cached_property
    def engine(self) -> Engine:
        """Return the decoding engine of the network, made when it is first used."""
        return Engine(self.network, EngineConfig(device=self.device))

    def generate(
        self,
        to: Modality,
        inputs: Inputs = (),
        *,
        language: Language = "ko",
        seed: int = 0,
        temperature: float | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
        **named: Any,
    ) -> Any:
        """Return one item of a modality, generated from inputs [(modality, item), …], or named
        ones: `generate("image", text="…")`.

        The same `seed` gives the same item; sampling settings default to the model's. Raises
        ConfigError for an unknown modality, a setting out of range or inputs that are too long.
        """
        return self.generate_batch(
            to,
            [[*inputs, *named.items()]],
            language=[language],
            seeds=[seed],
            temperature=temperature,
            top_p=top_p,
            guidance=guidance,
        )[0]

    def generate_batch(
        self,
        to: Modality,
        inputs: Sequence[Inputs],
        *,
        language: Language | Sequence[Language] = "ko",
        seeds: Sequence[int] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
    ) -> list[Any]:
        """Return items of a modality, one per list of inputs, decoded in one batch.

        Raises ConfigError as `generate` does.
        """
        languages = [language] * len(inputs) if isinstance(language, str) else language
        sampling = override(self._sampling(to), temperature, top_p, guidance)
        items, _ = self._answer(to, inputs, languages, seeds, sampling)
        return items

    def _sampling(self, to: Modality) -> SamplingConfig:
        """Return the model's own settings for a modality. Raises ConfigError for an unknown one."""
        known(to, self.layout)
        return self.sampling[to]

    def _answer(
        self,
        to: Modality,
        inputs: Sequence[Inputs],
        languages: Sequence[Language],
        seeds: Sequence[int] | None,
        sampling: SamplingConfig,
    ) -> tuple[list[Any], list[Context]]:
        """Return items of a modality and the contexts of the inputs, decoded in one batch."""
        contexts: list[list[Context]] = [[] for _ in inputs]
        settings = {**self.sampling, to: sampling}
        codes = run_pipelines(
            self.engine,
            [
                self.answers.answer(to, each, language, settings, seed, read.append)
                for each, language, seed, read in zip(
                    inputs,
                    languages,
                    range(len(inputs)) if seeds is None else seeds,
                    contexts,
                    strict=True,
                )
            ],
        )
        return self.codecs[to].decode_batch(codes), [context for (context,) in contexts]

    def reply(
        self,
        to: Modality,
        inputs: Inputs = (),
        *,
        language: Language | None = None,
        seed: int = 0,
        temperature: float | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
        **named: Any,
    ) -> Reply:
        """Return an item of a modality with what the model does not know of the inputs
        (`Reply.notices`).

        Without `language`, the answer is in the asker's own, or in the one that the words ask for
        ("in English", "한국어로").
        """
        return self.replies(
            to,
            [[*inputs, *named.items()]],
            language=language,
            seeds=[seed],
            temperature=temperature,
            top_p=top_p,
            guidance=guidance,
        )[0]

    def replies(
        self,
        to: Modality,
        inputs: Sequence[Inputs],
        *,
        language: Language | None = None,
        seeds: Sequence[int] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
    ) -> list[Reply]:
        """Return replies as `reply` does, one per list of inputs, decoded in one batch."""
        spoken = [language or _language_of(each) for each in inputs]
        sampling = override(self._sampling(to), temperature, top_p, guidance)
        items, contexts = self._answer(to, inputs, spoken, seeds, sampling)
        return [
            Reply(
                item,
                tongue,
                tuple(self.answers.notices(context, tongue)),
                logprob=_mean(context.logprobs.get(to, [])),
            )
            for item, tongue, context in zip(items, spoken, contexts, strict=True)
        ]

    def transcribe(self, sounds: Sequence[Any]) -> list[tuple[Language, str]]:
        """Return the language and the words of every sound float32 [T] at 16 kHz."""
        transcripts = run_pipelines(
            self.engine, [self.answers.hear(self.encode("audio", sound)) for sound in sounds]
        )
        return [(language, self.codecs["text"].decode(words)) for language, words in transcripts]

    def prompt(self, inputs: Inputs, to: Modality, language: Language) -> list[int]:
        """Return the ids of a prompt: `<bos>`, the inputs' segments, the task's token and the
        tokens that open the answer."""
        context = run_pipelines(self.engine, [self.answers.read(inputs)])[0]
        task = self.layout.task(task_of(to, context.inputs, context.says(language)))
        return context.ids + task + self.layout.opening(to, language)

    def encode(self, modality: Modality, item: Any) -> np.ndarray:
        """Return the codes int64 [K] of an item; speech and text are cut at their codec's
        longest."""
        return self.answers.encode(modality, item)

    def token_constraint(self, to: Modality) -> TokenConstraint:
        """Return the constraint on the ids that may be generated for an item of a modality."""
        return self.answers.token_constraint(to)

    def save(self, folder: Path) -> None:
        """Write the model's folder, which appears whole or not at all."""
        with whole_folder(folder) as part:
            begin, end, pad = (self.layout.special(token) for token in ("<bos>", "<eos>", "<pad>"))
            backbone.save(self.network, part, begin, end, pad, self.dtype)
            backbone.save_tokenizer(self.codecs["text"].tokenizer, self.layout.specials, part)
            registry.save(self.codecs, part / "codecs")
            self.front_end.save(part / "codecs")
            about = {
                "format": FORMAT,
                "front_end": self.front_end.name,
                "sampling": {m: s.to_json() for m, s in self.sampling.items()},
                "layout": self.layout.to_json(),
                "sha256": hashes_of(part),
            }
            (part / "onnuri.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, weights: bool = True, device: DeviceName = "cpu") -> OmniModel:
        """Return the model that `save` wrote, on a device; without `weights`, the backbone has
        shapes alone, for a server whose engine decodes in another process.

        Raises WeightsError if files are missing or differ from what was written, and ConfigError
        where there is no such device.
        """
        find(device)  # before the files are read
        about = check(folder)
        sampling = {m: SamplingConfig.from_json(s) for m, s in about["sampling"].items()}
        layout = _layout_of(folder, about)
        codecs = load_codecs(folder / "codecs", layout.names)
        _same_codecs(folder, layout, codecs)
        try:
            network = backbone.load(folder, device) if weights else backbone.outline(folder)
            dtype = backbone.stored_dtype(folder)
        except Exception as error:  # transformers raises whatever its files make it meet
            raise WeightsError(
                str(folder),
                f"holds no model that can be loaded ({error})",
                "fetch or export the folder again",
            ) from error
        front_end = front_end_class(about.get("front_end", UNNAMED)).load(folder / "codecs")
        return cls(network, codecs, layout, sampling, dtype, front_end, device)


def _language_of(inputs: Inputs) -> Language:
    """Return the language to answer inputs in: that which their last text asks for, else Korean."""
    words = [item for modality, item, *_ in inputs if modality == "text"]
    return language_asked(words[-1]) if words else "ko"


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean of some numbers, None of none."""
    return float(np.mean(values)) if len(values) else None


def _layout_of(folder: Path, about: dict[str, Any]) -> TokenLayout:
    """Return the token layout in `about`, the content of a folder's onnuri.json.

    Raises WeightsError for another format or a damaged layout.
    """
    if about.get("format") != FORMAT:
        raise WeightsError(
            str(folder),
            f"has format {about.get('format')!r}, and this version reads format {FORMAT}",
            "write it anew with `python benchmarks/migrate.py FOLDER`",
        )
    try:
        return TokenLayout.from_json(about["layout"])
    except (OnnuriError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            str(folder / "onnuri.json"),
            f"holds no token layout ({error})",
            "fetch or export the folder again",
        ) from None


def _same_codecs(folder: Path, layout: TokenLayout, codecs: dict[str, Any]) -> None:
    """Raise WeightsError if a codec is not the one for which the layout was made: its codes would
    mean other things."""
    for spec in layout.codecs:
        if spec.name not in codecs or codecs[spec.name].spec != spec:
            raise WeightsError(
                str(folder),
                f"holds another codec {spec.name!r} than its token layout was made for",
                "fetch or export the folder again",
            )


def modalities_of(folder: Path) -> tuple[str, ...]:
    """Return the names of the codecs of a model in a folder, its modalities first, without loading
    it. Raises WeightsError as `load` does, but for changed files."""
    return _layout_of(folder, _about(folder)).names


def check(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's onnuri.json after comparing every file's hash with it.

    Raises WeightsError for a missing or changed file.
    """
    about = _about(folder)
    for name, expected in about["sha256"].items():
        file = folder / name
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise WeightsError(
                str(file),
                "is missing or is not what was written",
                "fetch or export the folder again",
            )
    return about


def _about(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's onnuri.json. Raises WeightsError if it is missing or not
    what was written."""
    path = folder / "onnuri.json"
    if not path.exists():
        raise WeightsError(
            str(folder), "has no onnuri.json", "give a folder that `onnuri export` or `train` wrote"
        )
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        about["sha256"] | {}
        about["sampling"] | {}
    except (OSError, ValueError, KeyError, TypeError):
        raise WeightsError(
            str(path), "is not what was written", "fetch or export the folder again"
        ) from None
    return about


def hashes_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all weights, tokenizers and codec settings in a folder, by path."""
    files = sorted({f for name in HASHED for f in folder.rglob(name)})
    return {
        f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


def override(
    settings: SamplingConfig, temperature: float | None, top_p: float | None, guidance: float | None
) -> SamplingConfig:
    """Return sampling settings with those replaced that are not None. Raises ConfigError for one
    out of range."""
    changes = {"temperature": temperature, "top_p": top_p, "guidance": guidance}
    for name, value, low, high in (
        ("temperature", temperature, 0.0, 5.0),
        ("top_p", top_p, 1e-6, 1.0),
        ("guidance", guidance, 0.0, 20.0),
    ):
        if value is not None and not low <= value <= high:
            raise ConfigError(
                f"{name} {value}", f"is outside {low:g} to {high:g}", "give a value within"
            )
    return settings.replace(**{k: v for k, v in changes.items() if v is not None})
