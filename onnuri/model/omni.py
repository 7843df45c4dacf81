"""The any-to-any model: a stock backbone, its vocabulary and the codecs, in one folder.

    folder/config.json, model.safetensors, tokenizer.json …   a Hugging Face folder of the stock class
    folder/codecs/…/                                           the codecs, with what their codes look like (`spec-*.json`)
    folder/onnuri.json                                         token layout, sampling defaults, hashes of what decides

The layout and the specs that were saved are the only truth about a model's ids: no default of the
code is asked at load. Knows the files and the codecs; how an answer comes about is in `answer.py`,
what is drawn, the decoding engine decides.
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
from onnuri.inference.engine import Engine
from onnuri.inference.request import SamplingConfig, TokenConstraint
from onnuri.modality import MEDIA, Language, Modality
from onnuri.model import backbone
from onnuri.model.answer import Answers, Context, Inputs, known, run_pipelines
from onnuri.model.asking import language_asked, task_of
from onnuri.model.front_end import UNNAMED, FrontEnd, Notice, front_end_class
from onnuri.model.token_layout import TokenLayout

FORMAT = 2
"""of onnuri.json; 1 had no layout, and codes were read by the code's own table"""
HASHED = (
    "*.safetensors",
    "tokenizer.json",
    "words.json",
    "codecs/*/config.json",
    "codecs/*/spec-*.json",
)
"""files of a model's folder whose every byte decides what it answers"""
SAMPLING: dict[str, SamplingConfig] = {
    "text": SamplingConfig(temperature=0.0),
    "image": SamplingConfig(temperature=0.2, guidance=1.5),
    "audio": SamplingConfig(temperature=0.2, top_p=0.9),
    "video": SamplingConfig(temperature=0.0, guidance=2.0),
    "shape": SamplingConfig(temperature=0.0),
}


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer, and what the model did not know of what it was given."""

    item: Any
    language: Language
    notices: tuple[Notice, ...] = ()

    @property
    def told(self) -> list[str]:
        """Sentences of the notices that the answer itself does not say."""
        said = self.item if isinstance(self.item, str) else None
        return [notice.message for notice in self.notices if notice.message != said]


def load_codecs(folder: Path) -> dict[str, Any]:
    """Return every codec of a folder `codecs/` by name, the five media's own first; image and video
    share their networks.

    Raises WeightsError where one of the five is missing, or any cannot be read.
    """
    try:
        codecs: dict[str, Any] = dict(registry.load(folder, MEDIA))
        missing = [modality for modality in MEDIA if modality not in codecs]
        if missing:
            raise FileNotFoundError(f"no codec of {', '.join(missing)}")
        return codecs
    except OnnuriError:
        raise
    except Exception as error:  # tokenizers and safetensors raise nothing more special
        raise WeightsError(
            str(folder),
            f"holds codecs that cannot be read ({error})",
            "give a folder that `onnuri train` or `export` wrote",
        ) from error


def new_layout(codecs: dict[str, Any], tasks: bool = False) -> TokenLayout:
    """Return the token layout of a new model with these codecs. `tasks`: with tokens that say what
    is asked."""
    names = [*MEDIA, *(name for name in codecs if name not in MEDIA)]
    return TokenLayout.of([codecs[name].spec for name in names], tasks)


class OmniModel:
    """Any media in, any modality out."""

    def __init__(
        self,
        network: nn.Module,
        codecs: dict[str, Any],
        layout: TokenLayout | None = None,
        sampling: dict[str, SamplingConfig] | None = None,
        dtype: torch.dtype | None = None,
        front_end: FrontEnd | None = None,
    ) -> None:
        """`layout`: of the network's ids; without it, a new one for the codecs. `dtype`: in which
        the weights are saved; without it, as `backbone.save` decides. `front_end`: reads sentences;
        without it, they are read as they are."""
        self.network, self.codecs, self.dtype = network.eval(), codecs, dtype
        self.layout = layout or new_layout(codecs)
        self.sampling = {
            **{name: SamplingConfig() for name in self.layout.names},
            **(sampling or SAMPLING),
        }
        self.front_end = front_end or FrontEnd()
        positions = backbone.positions(network)
        self.answers = Answers(self.layout, codecs, positions, self.front_end)

    @functools.cached_property
    def engine(self) -> Engine:
        return Engine(self.network)

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
        """One item of a modality from inputs [(modality, item), …], or named ones: `generate("image",
        text="…")`.

        Raises ConfigError for an unknown modality, a setting out of range or an input that is too
        long.
        """
        given = [*inputs, *named.items()]
        return self.generate_batch(
            to,
            [given],
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
        """Items of a modality, one for each list of inputs."""
        known(to, self.layout)
        sampling = {**self.sampling, to: override(self.sampling[to], temperature, top_p, guidance)}
        languages = [language] * len(inputs) if isinstance(language, str) else list(language)
        seeds = list(seeds) if seeds is not None else list(range(len(inputs)))
        codes = run_pipelines(
            self.engine,
            [
                self.answers.answer(to, given, spoken, sampling, seed)
                for given, spoken, seed in zip(inputs, languages, seeds, strict=True)
            ],
        )
        return self.codecs[to].decode_batch(codes)  # type: ignore[no-any-return]

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
        known(to, self.layout)
        given = [*inputs, *named.items()]
        words = [item for modality, item, *_ in given if modality == "text"]
        spoken = language or (language_asked(words[-1]) if words else "ko")
        sampling = {**self.sampling, to: override(self.sampling[to], temperature, top_p, guidance)}
        contexts: list[Context] = []
        codes = run_pipelines(
            self.engine, [self.answers.answer(to, given, spoken, sampling, seed, contexts.append)]
        )[0]
        return Reply(
            self.codecs[to].decode(codes), spoken, tuple(self.answers.notices(contexts[0], spoken))
        )

    def transcribe(self, sounds: Sequence[Any]) -> list[tuple[Language, str]]:
        """The language and the words of every sound."""
        heard = run_pipelines(
            self.engine, [self.answers.hear(self.encode("audio", sound)) for sound in sounds]
        )
        return [(language, self.codecs["text"].decode(words)) for language, words in heard]

    def prompt(self, given: Inputs, to: Modality, language: Language) -> list[int]:
        """`<bos>`, the inputs' segments, and what opens the answer."""
        context = run_pipelines(self.engine, [self.answers.read(given)])[0]
        asked = self.layout.task(task_of(to, context.inputs, context.says(language)))
        return context.ids + asked + self.layout.opening(to, language)

    def encode(self, modality: Modality, item: Any) -> np.ndarray:
        """Codes of an item; speech and text are cut at the modality's longest."""
        return self.answers.encode(modality, item)

    def token_constraint(self, to: Modality) -> TokenConstraint:
        """What may be generated for a modality."""
        return self.answers.token_constraint(to)

    def save(self, folder: Path) -> None:
        """Write the folder; whole or not at all."""
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
    def load(cls, folder: Path, weights: bool = True) -> OmniModel:
        """The model that `save` wrote; without `weights`, all but the backbone's, for whoever
        decodes elsewhere.

        Raises WeightsError where files are missing or are not what was written.
        """
        about = check(folder)
        sampling = {m: SamplingConfig.from_json(s) for m, s in about["sampling"].items()}
        layout, codecs = _layout_of(folder, about), load_codecs(folder / "codecs")
        _same_codecs(folder, layout, codecs)
        try:
            network = backbone.load(folder) if weights else backbone.outline(folder)
            dtype = backbone.stored_dtype(folder)
        except Exception as error:  # transformers raises whatever its files make it meet
            raise WeightsError(
                str(folder),
                f"holds no model that can be loaded ({error})",
                "fetch or export the folder again",
            ) from error
        front_end = front_end_class(about.get("front_end", UNNAMED)).load(folder / "codecs")
        return cls(network, codecs, layout, sampling, dtype, front_end)


def _layout_of(folder: Path, about: dict[str, Any]) -> TokenLayout:
    """Return the token layout that a folder was saved with."""
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
    """Raise WeightsError where a codec is not the one that the layout was made for: its codes would
    mean other things."""
    for spec in layout.codecs:
        if spec.name not in codecs or codecs[spec.name].spec != spec:
            raise WeightsError(
                str(folder),
                f"holds another codec {spec.name!r} than its token layout was made for",
                "fetch or export the folder again",
            )


def check(folder: Path) -> dict[str, Any]:
    """The contents of onnuri.json, after every file's hash was compared."""
    path = folder / "onnuri.json"
    if not path.exists():
        raise WeightsError(
            str(folder), "has no onnuri.json", "give a folder that `onnuri export` or `train` wrote"
        )
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        hashes = about["sha256"] | {}
        about["sampling"] | {}
    except (OSError, ValueError, KeyError, TypeError):
        raise WeightsError(
            str(path), "is not what was written", "fetch or export the folder again"
        ) from None
    for name, expected in hashes.items():
        file = folder / name
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise WeightsError(
                str(file),
                "is missing or is not what was written",
                "fetch or export the folder again",
            )
    return about


def hashes_of(folder: Path) -> dict[str, str]:
    """Return the hashes of all weights, tokenizers and settings of codecs."""
    files = sorted({f for name in HASHED for f in folder.rglob(name)})
    return {
        f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }


def override(
    settings: SamplingConfig, temperature: float | None, top_p: float | None, guidance: float | None
) -> SamplingConfig:
    """Settings with some of them set. Raises ConfigError where one is out of range."""
    given = {"temperature": temperature, "top_p": top_p, "guidance": guidance}
    for name, value, low, high in (
        ("temperature", temperature, 0.0, 5.0),
        ("top_p", top_p, 1e-6, 1.0),
        ("guidance", guidance, 0.0, 20.0),
    ):
        if value is not None and not low <= value <= high:
            raise ConfigError(
                f"{name} {value}", f"is outside {low:g} to {high:g}", "give a value within"
            )
    return settings.replace(**{k: v for k, v in given.items() if v is not None})
