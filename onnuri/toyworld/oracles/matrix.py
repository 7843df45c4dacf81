"""The any-to-any matrix: every modality to every modality, on scenes that training cannot reach, judged
by the oracles.

Knows a model only as something with `generate_batch` and `codecs`. Off the diagonal a scene goes in
as one modality and comes out as another. The diagonal is text: question answering and translation;
image, video, shape: instructed edit; audio: speech translation. Chance answers with another scene;
the ceiling is the oracle on the ground truth after the target's codec.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from rich.progress import Progress

from onnuri.evaluation.interval import wilson
from onnuri.modality import LANGUAGES, MEDIA, Language, Modality
from onnuri.toyworld import audio, image, mesh, other, video
from onnuri.toyworld.attributes import ATTRIBUTES, CARRIES, Attribute
from onnuri.toyworld.oracles import audio as hear
from onnuri.toyworld.oracles import image as see
from onnuri.toyworld.oracles import mesh as touch
from onnuri.toyworld.oracles import text as read
from onnuri.toyworld.oracles import video as watch
from onnuri.toyworld.oracles.score import Score, score
from onnuri.toyworld.scene import (
    Description,
    Edit,
    Scene,
    Split,
    generator,
    sample_edit,
    sample_scene,
)
from onnuri.toyworld.tasks import comparison, instruction, question
from onnuri.toyworld.text import caption

SPLITS: tuple[Split, ...] = ("seen", "held_out")
OBSERVE: dict[Modality, Callable[[Any], Description | None]] = {
    "text": read.observe,
    "image": see.observe,
    "audio": hear.observe,
    "video": watch.observe,
    "shape": touch.observe,
}
SPOKEN = ("text", "audio")


class Model(Protocol):
    """What is judged."""

    codecs: dict[str, Any]

    def generate_batch(
        self, to: Modality, inputs: list[list[Any]], *, language: list[Language], seeds: list[int]
    ) -> list[Any]: ...


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One item of a cell."""

    score: Score
    chance: Score
    language: Language | None
    objects: int


class Items:
    """The scenes of a split with their media, rendered when first asked for.

    `first` is the first scene's seed: settings are tried on other scenes than those that are
    reported (0 …).
    """

    def __init__(self, split: Split, count: int, codecs: dict[str, Any], first: int = 0) -> None:
        self.split, self.codecs = split, codecs
        self.scenes = [sample_scene(seed, split) for seed in range(first, first + count)]
        self.media = functools.cache(self._media)

    def language(self, index: int) -> Language:
        return LANGUAGES[index % 2]

    def _media(self, modality: Modality, index: int, language: Language | None = None) -> Any:
        """The scene's item of a modality; text and speech are the same sentence."""
        return render(self.scenes[index], modality, language or self.language(index), self.split)

    def random(self, index: int) -> np.random.Generator:
        """Random numbers of a scene, the same each time."""
        return generator(self.split, self.scenes[index].seed)

    @functools.cached_property
    def ceilings(self) -> dict[Modality, list[Description | None]]:
        """What the oracle sees of the ground truth after encode–decode."""
        found: dict[Modality, list[Description | None]] = {
            "text": [s.description() for s in self.scenes]
        }
        for modality in MEDIA[1:]:
            codec = self.codecs[modality]
            truth = [self.media(modality, k) for k in range(len(self.scenes))]
            found[modality] = [
                OBSERVE[modality](x) for x in codec.decode_batch(codec.encode_batch(truth))
            ]
        return found


def render(scene: Scene, modality: Modality, language: Language, split: Split) -> Any:
    """Ground truth of a scene in a modality."""
    if modality in SPOKEN:
        rng = generator(split, scene.seed)
        sentence = caption(scene, language, rng)
        return (
            sentence
            if modality == "text"
            else audio.speak(sentence, language, audio.sample_voice(rng))
        )
    return {
        "image": lambda: image.render(scene).image,
        "video": lambda: video.render(scene).frames,
        "shape": lambda: mesh.voxels(scene),
    }[modality]()


def matrix(
    model: Model,
    items: int,
    splits: Iterable[Split] = SPLITS,
    samples: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All cells, as the JSON of README describes. `samples` collects a few inputs and outputs of
    every cell."""
    began, cells = time.time(), []
    with Progress(transient=True) as progress:
        row = progress.add_task("matrix", total=25 * len(tuple(splits)))
        for split in splits:
            stock = Items(split, items, model.codecs)
            for source in MEDIA:
                for target in MEDIA:
                    progress.update(row, description=f"{split}: {source} to {target}")
                    cells += cell(model, stock, source, target, samples)
                    progress.advance(row)
        progress.update(row, description="second renderer and mixed inputs")
        more = further(model, items)
    return {
        "items": items,
        "seconds": round(time.time() - began, 1),
        "cells": cells,
        "further": more,
    }


def cell(
    model: Model, stock: Items, source: Modality, target: Modality, samples: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """The rows of one cell and split: all, by language, by number of objects; two tasks on text's
    diagonal."""
    tasks = {"translation": _across} if source != target or source in SPOKEN else {"edit": _edit}
    if source != target:
        tasks = {"caption" if target == "text" else "generation": _across}
    if source == target == "text":
        tasks = {"translation": _across, "question answering": _ask}  # type: ignore[dict-item]
    rows = []
    for task, run in tasks.items():
        made = run(model, stock, source, target, samples)
        rows += summarise(
            made["outcomes"],
            {"from": source, "to": target, "split": stock.split, "task": task},
            made.get("ceiling", {}),
            made.get("extra", {}),
        )
    return rows


def counted(source: Modality, target: Modality) -> frozenset[Attribute]:
    """Attributes that the source states and the target shows; a still asks for stillness where
    motion can be shown."""
    stated = CARRIES[source]
    return CARRIES[target] & (stated if "motion" in stated else stated | {"motion"})


def expectation(
    scene: Scene, source: Modality
) -> tuple[Description, frozenset[tuple[int, str, int]]]:
    """What a source states: of a still, stillness; of a sentence, the relations it names; else one
    of every pair."""
    true = scene.description()
    if "motion" not in CARRIES[source]:
        true = dataclasses.replace(
            true, things=tuple(dataclasses.replace(t, motion="still") for t in true.things)
        )
    stated = (
        frozenset(scene.stated)
        if source in SPOKEN
        else frozenset(r for r in true.relations if r[0] < r[2])
    )
    return true, stated


def further(model: Model, items: int, split: Split = "seen") -> list[dict[str, Any]]:
    """What the matrix has no cell for: pictures of a renderer that nothing was trained on, and
    mixed inputs."""
    stock, rows = Items(split, items, model.codecs), []
    pictures = [other.render(scene) for scene in stock.scenes]
    for target in ("text", "shape"):
        made = _across(model, stock, "image", target, None, pictures)  # type: ignore[arg-type]
        rows += [
            {"name": "second renderer", "from": "image", "to": target, **_brief(made["outcomes"])}
        ]
    asked = [
        question(scene, stock.language(k), stock.random(k), motion=False)
        for k, scene in enumerate(stock.scenes)
    ]
    languages = [stock.language(k) for k in range(items)]
    spoken = [
        audio.speak(q, languages[k], audio.sample_voice(stock.random(k)))
        for k, (q, _) in enumerate(asked)
    ]
    given: list[list[Any]] = [
        [("image", stock.media("image", k)), ("audio", spoken[k])] for k in range(items)
    ]
    for to, hear_it in (("text", str), ("audio", hear.transcribe)):
        answers = model.generate_batch(
            to,  # type: ignore[arg-type]
            given,
            language=languages,
            seeds=list(range(items)),
        )
        said = [hear_it(answer) for answer in answers]  # type: ignore[operator]
        outcomes = [
            Outcome(
                _one(read.same_answer(asked[k][1], said[k])),
                _one(read.same_answer(asked[k][1], asked[(k + 14) % items][1])),
                languages[k],
                1,
            )
            for k in range(items)
        ]
        rows.append(
            {
                "name": "picture and spoken question",
                "from": "image + audio",
                "to": to,
                **_brief(outcomes),
            }
        )
    pairs = [(k, (k + 1) % items) for k in range(items)]
    wanted = [
        comparison(len(stock.scenes[a].things), len(stock.scenes[b].things), languages[k])
        for k, (a, b) in enumerate(pairs)
    ]
    given = [
        [*(("image", stock.media("image", x)) for x in pair), ("text", wanted[k][0])]
        for k, pair in enumerate(pairs)
    ]
    said = model.generate_batch("text", given, language=languages, seeds=list(range(items)))
    outcomes = [
        Outcome(
            _one(read.same_answer(wanted[k][1], said[k])),
            _one(read.same_answer(wanted[k][1], wanted[(k + 14) % items][1])),
            languages[k],
            1,
        )
        for k in range(items)
    ]
    rows.append(
        {
            "name": "two pictures: which has more",
            "from": "image + image + text",
            "to": "text",
            **_brief(outcomes),
        }
    )
    return rows


def _brief(outcomes: list[Outcome]) -> dict[str, Any]:
    right, asked = (sum(o.score.attributes[k] for o in outcomes) for k in (0, 1))
    share, by = _total([o.score for o in outcomes])
    return {
        "n": len(outcomes),
        "attribute_accuracy": share,
        "interval": list(wilson(right, asked)),
        "chance": _total([o.chance for o in outcomes])[0],
        "by_attribute": by,
    }


def _across(
    model: Model,
    stock: Items,
    source: Modality,
    target: Modality,
    samples: dict[str, Any] | None,
    items: list[Any] | None = None,
) -> dict[str, Any]:
    """A scene as one modality in (its own item, or those given), as another out; of one modality, in
    the other language."""
    count = len(stock.scenes)
    speak: list[Language] = [stock.language(k) for k in range(count)]
    ask = speak if source != target else [LANGUAGES[1 - LANGUAGES.index(s)] for s in speak]
    given = [(source, items[k] if items else stock.media(source, k)) for k in range(count)]
    made = model.generate_batch(
        target, [[g] for g in given], language=ask, seeds=list(range(count))
    )
    if samples is not None:
        samples[f"{source}-{target}-{stock.split}"] = [
            (given[k], made[k]) for k in range(min(2, count))
        ]
    attributes = counted(source, target)
    outcomes, top = [], []
    for k, item in enumerate(made):
        expected, stated = expectation(stock.scenes[k], source)
        asked = None if target in SPOKEN and source not in SPOKEN else stated
        other = stock.scenes[(k + 7) % count].description()
        spoken = ask[k] if {source, target} & set(SPOKEN) else None
        outcomes.append(
            Outcome(
                score(expected, OBSERVE[target](item), attributes, asked),
                score(expected, other, attributes, asked),
                spoken,
                len(expected.things),
            )
        )
        true = stock.scenes[k].description()
        top.append(
            score(true, stock.ceilings[target][k], attributes, asked if asked is None else stated)
        )
    return {"outcomes": outcomes, "ceiling": _total(top)}


def _ask(
    model: Model, stock: Items, source: Modality, target: Modality, samples: dict[str, Any] | None
) -> dict[str, Any]:
    """A caption and a question about it in; the answer out."""
    asked = []
    for k, scene in enumerate(stock.scenes):
        asked.append(question(scene, stock.language(k), stock.random(k)))
    given = [[("text", stock.media("text", k)), ("text", q)] for k, (q, _) in enumerate(asked)]
    made = model.generate_batch(
        "text",
        given,
        language=[stock.language(k) for k in range(len(asked))],
        seeds=list(range(len(asked))),
    )
    if samples is not None:
        samples[f"text-question-{stock.split}"] = [
            (("text", asked[k][0]), made[k]) for k in range(min(2, len(made)))
        ]
    outcomes = []
    for k, (said, (_, true)) in enumerate(zip(made, asked)):
        other = asked[(k + 14) % len(asked)][1]
        outcomes.append(
            Outcome(
                _one(read.same_answer(true, said)),
                _one(read.same_answer(true, other)),
                stock.language(k),
                len(stock.scenes[k].things),
            )
        )
    return {"outcomes": outcomes, "ceiling": (1.0, {})}


def _one(right: bool) -> Score:
    return Score({"answer": int(right)}, {"answer": 1})


def _edit(
    model: Model, stock: Items, source: Modality, target: Modality, samples: dict[str, Any] | None
) -> dict[str, Any]:
    """A modality and an instruction in; the modality out, one attribute changed and all others kept."""
    attributes = CARRIES[target]
    edits: list[tuple[int, Edit]] = []
    for k, scene in enumerate(stock.scenes):
        edit = sample_edit(stock.random(k), scene, "motion" in attributes, stock.split)
        edits += [(k, edit)] if edit else []
    said = [instruction(stock.scenes[k], e, stock.language(k), stock.random(k)) for k, e in edits]
    given = [[(source, stock.media(source, k)), ("text", s)] for (k, _), s in zip(edits, said)]
    made = model.generate_batch(
        target, given, language=[stock.language(k) for k, _ in edits], seeds=list(range(len(edits)))
    )
    if samples is not None:
        samples[f"{source}-{target}-{stock.split}"] = [
            ((source, given[k][0][1], said[k]), made[k]) for k in range(min(2, len(made)))
        ]
    outcomes, changed, kept, copied = [], [0, 0], [0, 0], [0, 0]
    for (k, edit), item in zip(edits, made):
        before, after = stock.scenes[k].description(), edit.apply(stock.scenes[k]).description()
        stated = frozenset(r for r in after.relations if r[0] < r[2])
        seen = OBSERVE[target](item)
        whole = score(after, seen, attributes, stated)
        other = stock.scenes[(k + 7) % len(stock.scenes)].description()
        outcomes.append(
            Outcome(
                whole, score(after, other, attributes, stated), stock.language(k), len(after.things)
            )
        )
        lost = score(_without(after, edit), seen, attributes, stated)
        _add(
            changed,
            (
                whole.right[edit.attribute] - lost.right[edit.attribute],
                whole.asked[edit.attribute] - lost.asked[edit.attribute],
            ),
        )
        _add(kept, lost.attributes)
        _add(copied, score(after, before, attributes, stated).attributes)
    extra = {
        "edited": changed[0] / max(changed[1], 1),
        "kept": kept[0] / max(kept[1], 1),
        "unchanged_copy": copied[0] / max(copied[1], 1),
    }
    top = _total(
        [
            score(
                s.description(), c, attributes, frozenset(r for r in s.relations() if r[0] < r[2])
            )
            for s, c in zip(stock.scenes, stock.ceilings[target])
        ]
    )
    return {"outcomes": outcomes, "ceiling": top, "extra": extra}


def _without(after: Description, edit: Edit) -> Description:
    """The description without the edited attribute."""
    things = list(after.things)
    things[edit.index] = dataclasses.replace(things[edit.index], **{edit.attribute: None})  # type: ignore[arg-type]
    return dataclasses.replace(after, things=tuple(things))


def _add(total: list[int], more: tuple[int, int]) -> None:
    total[0], total[1] = total[0] + more[0], total[1] + more[1]


def _total(scores: list[Score]) -> tuple[float, dict[str, float]]:
    """Share right over all attributes, and by attribute."""
    right, asked = sum(s.attributes[0] for s in scores), sum(s.attributes[1] for s in scores)
    by: dict[str, float] = {
        str(a): sum(s.right[a] for s in scores) / n
        for a in ATTRIBUTES
        if scores and a in scores[0].asked and (n := sum(s.asked[a] for s in scores))
    }
    return right / max(asked, 1), by


def summarise(
    outcomes: list[Outcome],
    about: dict[str, Any],
    ceiling: tuple[float, dict[str, float]],
    extra: dict[str, float],
) -> list[dict[str, Any]]:
    """The JSON rows of outcomes: all; by language; by objects."""
    rows = []
    for language, objects in [
        ("all", "all"),
        *((lang, "all") for lang in LANGUAGES),
        *(("all", n) for n in (1, 2, 3)),
    ]:
        part = [
            o for o in outcomes if language in ("all", o.language) and objects in ("all", o.objects)
        ]
        if not part:
            continue
        right, asked = (
            sum(o.score.attributes[0] for o in part),
            sum(o.score.attributes[1] for o in part),
        )
        share, by = _total([o.score for o in part])
        whole = language == "all" and objects == "all"
        rows.append(
            {
                **about,
                "objects": objects,
                "language": language,
                "n": len(part),
                "attribute_accuracy": share,
                "scene_accuracy": float(np.mean([o.score.scene for o in part])),
                "interval": list(wilson(right, asked)),
                "ceiling": ceiling[0],
                "chance": _total([o.chance for o in part])[0],
                "by_attribute": by,
                **({"ceiling_by_attribute": ceiling[1], **extra} if whole else {}),
            }
        )
    return rows
