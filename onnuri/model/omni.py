"""The any-to-any model: a stock backbone, its vocabulary and the codecs, in one folder.

    folder/config.json, model.safetensors, tokenizer.json …   a Hugging Face folder of the stock class
    folder/codecs/{text,visual,audio,shape}/                   the codecs
    folder/onnuri.json                                         modality table, sampling defaults, hashes of all weights

Knows how media become ids and ids media; what is drawn, the decoding engine decides. Speech meets words only, as in
training (`data/mix.py`): the model first writes down what it hears, and goes on with that; it writes what it is going to
say, and then speaks it word by word.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from onnuri.codecs.audio import AudioCodec
from onnuri.codecs.image import ImageCodec
from onnuri.codecs.shape import ShapeCodec
from onnuri.codecs.text import TextCodec
from onnuri.codecs.video import VideoCodec
from onnuri.decoding.engine import Engine, Plan
from onnuri.decoding.sample import SamplingConfig
from onnuri.errors import ConfigError, OnnuriError, WeightsError
from onnuri.modality import LANGUAGE_TOKENS, LANGUAGES, MEDIA, TABLE, Language, Medium
from onnuri.model import backbone
from onnuri.model.vocabulary import SPECIALS, Vocabulary

Input = tuple[str, Any]
"""(medium, item); a text may be (medium, item, language) to say its language"""
HEARING = SamplingConfig(temperature=0.0)
"""how a sound's words are drawn"""
AT_ONCE = 64
"""rows that are decoded together"""
LONGEST_WORD = 75
"""codes of a spoken word: three seconds"""
SAMPLING: dict[str, SamplingConfig] = {
    "text": SamplingConfig(temperature=0.0),
    "image": SamplingConfig(temperature=0.6, guidance=1.5),
    "audio": SamplingConfig(temperature=0.2, top_p=0.9),
    "video": SamplingConfig(temperature=0.0, guidance=2.0),
    "shape": SamplingConfig(temperature=0.0),
}


def load_codecs(folder: Path) -> dict[str, Any]:
    """Every medium's codec from a folder `codecs/`; image and video share their networks.

    Raises WeightsError where one is missing or cannot be read.
    """
    try:
        image = ImageCodec.load(folder / "visual")
        return {"text": TextCodec.load(folder / "text"), "image": image, "audio": AudioCodec.load(folder / "audio"),
                "video": VideoCodec(image.config, image.visual).eval(), "shape": ShapeCodec.load(folder / "shape")}
    except OnnuriError:
        raise
    except Exception as error:  # tokenizers and safetensors raise nothing more special
        raise WeightsError(str(folder), f"holds codecs that cannot be read ({error})",
                           "give a folder that `onnuri train` or `export` wrote") from error


def save_codecs(codecs: dict[str, Any], folder: Path) -> None:
    for medium, name in (("text", "text"), ("image", "visual"), ("audio", "audio"), ("shape", "shape")):
        codecs[medium].save(folder / name)


@dataclasses.dataclass
class _Context:
    """What one row has been given, as ids, and its last input."""

    ids: list[int]
    count: int
    """inputs"""
    language: Language | None = None
    """of the last input, if that is text or a sound"""
    heard: bool = False
    """whether that is a sound"""
    words: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    """its codes of text"""

    def add(self, vocabulary: Vocabulary, medium: Medium, codes: np.ndarray, language: Language | None,
            heard: bool = False) -> None:
        self.ids = self.ids + vocabulary.segment(medium, codes, language)
        self.language, self.heard = language, heard
        self.words = codes if medium == "text" else self.words[:0]

    def says(self, language: Language) -> bool:
        """Whether all that was given is a sentence in that language."""
        return self.count == 1 and self.language == language


class OmniModel:
    """Any media in, any medium out."""

    def __init__(self, network: nn.Module, codecs: dict[str, Any],
                 sampling: dict[str, SamplingConfig] | None = None) -> None:
        self.network, self.codecs, self.sampling = network.eval(), codecs, sampling or SAMPLING
        self.vocabulary = Vocabulary(codecs["text"].num_codes)

    @functools.cached_property
    def engine(self) -> Engine:
        return Engine(self.network)

    def generate(self, to: Medium, inputs: Sequence[Any] = (), *, language: Language = "ko", seed: int = 0,
                 temperature: float | None = None, top_p: float | None = None, guidance: float | None = None,
                 **named: Any) -> Any:
        """One item of a medium from inputs [(medium, item), …], or named ones: `generate("image", text="…")`.

        Raises ConfigError for an unknown medium, a setting out of range or an input that is too long.
        """
        given = [*inputs, *named.items()]
        return self.generate_batch(to, [given], language=[language], seeds=[seed], temperature=temperature,
                                   top_p=top_p, guidance=guidance)[0]

    def generate_batch(self, to: Medium, inputs: Sequence[Sequence[Any]], *, language: Language | Sequence[Language] = "ko",
                       seeds: Sequence[int] | None = None, temperature: float | None = None,
                       top_p: float | None = None, guidance: float | None = None) -> list[Any]:
        """Items of a medium, one for each list of inputs."""
        _known(to)
        sampling = _override(self.sampling[to], temperature, top_p, guidance)
        languages = [language] * len(inputs) if isinstance(language, str) else list(language)
        seeds = list(seeds) if seeds is not None else list(range(len(inputs)))
        contexts = self._contexts(inputs)
        if to == "audio":
            return self._speak(self._sentences(contexts, languages, seeds), languages, sampling, seeds)
        if to == "text":
            sentences = self._sentences(contexts, languages, seeds, sampling, only_heard=True)
            return self.codecs["text"].decode_batch(sentences)  # type: ignore[no-any-return]
        opening, bos = self.vocabulary.opening(to), self.vocabulary.special("<bos>")
        ids = self._draw([c.ids + opening for c in contexts], self.plan(to), sampling, seeds, [[bos, *opening]] * len(inputs))
        return self.codecs[to].decode_batch(self._codes(to, ids))  # type: ignore[no-any-return]

    def transcribe(self, sounds: Sequence[Any]) -> list[tuple[Language, str]]:
        """The language and the words of every sound."""
        heard = self._hear([self.encode("audio", sound) for sound in sounds])
        return [(language, self.codecs["text"].decode(words)) for language, words in heard]

    def _contexts(self, inputs: Sequence[Sequence[Any]]) -> list[_Context]:
        """What every row gives, as ids: inputs in their order, of a sound what the model hears in it."""
        contexts = [_Context([self.vocabulary.special("<bos>")], len(given)) for given in inputs]
        for medium in {m for given in inputs for m, *_ in given}:
            _known(medium)
        sounds = [(k, at) for k, given in enumerate(inputs) for at, (medium, *_) in enumerate(given) if medium == "audio"]
        heard = dict(zip(sounds, self._hear([self.encode("audio", inputs[k][at][1]) for k, at in sounds]), strict=True))
        for k, (context, given) in enumerate(zip(contexts, inputs, strict=True)):
            for at, (medium, item, *tongue) in enumerate(given):
                if medium == "audio":
                    context.add(self.vocabulary, "text", heard[k, at][1], heard[k, at][0], heard=True)
                elif medium == "text":
                    context.add(self.vocabulary, medium, self.encode(medium, item), tongue[0] if tongue else _language(item))
                else:
                    context.add(self.vocabulary, medium, self.encode(medium, item), None)
            room = backbone.positions(self.network) - 2 * max(TABLE[m].max_tokens for m in MEDIA)
            if len(context.ids) > room:
                raise ConfigError(f"inputs of {len(context.ids)} tokens", f"leave no room, {room} at most fit",
                                  "give fewer or shorter inputs")
        return contexts

    def _hear(self, sounds: list[np.ndarray]) -> list[tuple[Language, np.ndarray]]:
        """Of every sound's codes the language and the text codes that the model hears."""
        v = self.vocabulary
        prompts = [[v.special("<bos>"), *v.segment("audio", codes), v.special(TABLE["text"].open)] for codes in sounds]
        plan = dataclasses.replace(self.plan("text"), first=v.languages)
        found = []
        for ids in self._draw(prompts, plan, HEARING, [0] * len(prompts)):
            language = next(x for x in LANGUAGES if v.special(LANGUAGE_TOKENS[x]) == ids[0])
            found.append((language, v.codes("text", np.array(ids[1:], dtype=np.int64))))
        return found

    def _sentences(self, contexts: list[_Context], languages: Sequence[Language], seeds: Sequence[int],
                   sampling: SamplingConfig | None = None, only_heard: bool = False) -> list[np.ndarray]:
        """Text codes that answer each context: of a lone sound its words, of a lone sentence that is to be spoken (not
        `only_heard`) itself, if it is in the language that is asked for; else what the model writes."""
        made = {k: c.words for k, (c, lang) in enumerate(zip(contexts, languages, strict=True))
                if c.says(lang) and (c.heard or not only_heard)}
        rest = [k for k in range(len(contexts)) if k not in made]
        openings = [self.vocabulary.opening("text", languages[k]) for k in rest]
        ids = self._draw([contexts[k].ids + o for k, o in zip(rest, openings, strict=True)], self.plan("text"),
                         sampling or self.sampling["text"], [seeds[k] for k in rest],
                         [[self.vocabulary.special("<bos>"), *o] for o in openings])
        made |= dict(zip(rest, self._codes("text", ids), strict=True))
        return [made[k] for k in range(len(contexts))]

    def _speak(self, sentences: list[np.ndarray], languages: Sequence[Language], sampling: SamplingConfig,
               seeds: Sequence[int]) -> list[Any]:
        """Sentences as sound, every word put in before what it sounds like."""
        v, made = self.vocabulary, [np.zeros(0, np.int64)] * len(sentences)
        said = [k for k, s in enumerate(sentences) if len(s)]
        prompts = [[v.special("<bos>"), *v.segment("text", sentences[k], languages[k]), *v.opening("audio", languages[k])]
                   for k in said]
        scripts = [[v.ids("text", word).tolist() for word in self.codecs["text"].words(sentences[k])] for k in said]
        plan = dataclasses.replace(self.plan("audio"), end=v.special("<|word|>"), stretch=LONGEST_WORD)
        ids = self._draw(prompts, plan, sampling, [seeds[k] for k in said], scripts=scripts)
        for k, codes in zip(said, self._codes("audio", ids), strict=True):
            made[k] = codes
        return self.codecs["audio"].decode_batch(made)  # type: ignore[no-any-return]

    def _codes(self, medium: Medium, ids: list[list[int]]) -> list[np.ndarray]:
        return [self.vocabulary.codes(medium, np.array(row, dtype=np.int64)) for row in ids]

    def _draw(self, prompts: list[list[int]], plan: Plan, sampling: SamplingConfig, seeds: Sequence[int],
              without: list[list[int]] | None = None, scripts: list[list[list[int]]] | None = None) -> list[list[int]]:
        """The engine's answers, some rows at a time, those of like length together."""
        made: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda k: len(prompts[k]))
        for at in range(0, len(order), AT_ONCE):
            part = order[at : at + AT_ONCE]
            answers = self.engine.generate([prompts[k] for k in part], plan, sampling, [seeds[k] for k in part],
                                           [without[k] for k in part] if without else None,
                                           [scripts[k] for k in part] if scripts else None)
            for k, ids in zip(part, answers):
                made[k] = ids
        return made

    def prompt(self, given: Sequence[Any], to: Medium, language: Language) -> list[int]:
        """`<bos>`, the inputs' segments, and what opens the answer."""
        return self._contexts([given])[0].ids + self.vocabulary.opening(to, language)

    def encode(self, medium: Medium, item: Any) -> np.ndarray:
        """Codes of an item; speech and text are cut at the medium's longest."""
        codes: np.ndarray = self.codecs[medium].encode(item)
        return codes[: TABLE[medium].max_tokens]

    def plan(self, to: Medium) -> Plan:
        """What may be generated for a medium."""
        allowed, grid = self.vocabulary.allowed(to), TABLE[to].grid
        if allowed and grid:
            return Plan(ranges=tuple(allowed), leads=grid.leads)
        lo, hi = self.vocabulary.own(to)
        return Plan(free=(lo, hi), end=self.vocabulary.special(TABLE[to].close), longest=TABLE[to].max_tokens)

    def save(self, folder: Path) -> None:
        """Write the folder; whole or not at all."""
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            backbone.save(self.network, part, *(self.vocabulary.special(t) for t in ("<bos>", "<eos>", "<pad>")))
            backbone.save_tokenizer(self.codecs["text"].tokenizer, SPECIALS, part)
            save_codecs(self.codecs, part / "codecs")
            about = {"format": 1, "sampling": {m: s.to_json() for m, s in self.sampling.items()},
                     "modalities": {m: _row(m) for m in MEDIA}, "sha256": _hashes(part)}
            (part / "onnuri.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            part.rename(folder)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise ConfigError(str(folder), f"cannot be written ({error.strerror})", "give another folder") from None

    @classmethod
    def load(cls, folder: Path) -> OmniModel:
        """The model that `save` wrote. Raises WeightsError where files are missing or are not what was written."""
        about = check(folder)
        sampling = {m: SamplingConfig.from_json(s) for m, s in about["sampling"].items()}
        return cls(backbone.load(folder), load_codecs(folder / "codecs"), sampling)


def check(folder: Path) -> dict[str, Any]:
    """The contents of onnuri.json, after every file's hash was compared."""
    path = folder / "onnuri.json"
    if not path.exists():
        raise WeightsError(str(folder), "has no onnuri.json", "give a folder that `onnuri export` or `train` wrote")
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name, expected in about["sha256"].items():
        file = folder / name
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise WeightsError(str(file), "is missing or is not what was written", "fetch or export the folder again")
    return about


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted([*folder.rglob("*.safetensors"), *folder.rglob("tokenizer.json")])
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _row(medium: Medium) -> dict[str, Any]:
    row = TABLE[medium]
    return {"codebook": row.codebook, "codes": row.codes, "item_tokens": row.item_tokens,
            "tokens_per_second": row.tokens_per_second, "media_type": row.media_type, "carries": sorted(row.carries)}


def _known(medium: str) -> None:
    if medium not in TABLE:
        raise ConfigError(repr(medium), "is not a medium", f"use one of {', '.join(MEDIA)}")


def _language(sentence: str) -> Language:
    """Of a text, by its letters."""
    return "ko" if any("가" <= c <= "힣" for c in sentence) else "en"


def _override(settings: SamplingConfig, temperature: float | None, top_p: float | None,
              guidance: float | None) -> SamplingConfig:
    given = {"temperature": temperature, "top_p": top_p, "guidance": guidance}
    for name, value, low, high in (("temperature", temperature, 0.0, 5.0), ("top_p", top_p, 1e-6, 1.0),
                                   ("guidance", guidance, 0.0, 20.0)):
        if value is not None and not low <= value <= high:
            raise ConfigError(f"{name} {value}", f"is outside {low:g} to {high:g}", "give a value within")
    return settings.replace(**{k: v for k, v in given.items() if v is not None})
