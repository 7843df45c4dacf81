"""This module measures the any-to-any matrix: every modality to every modality, on scenes that
training cannot reach, judged by the oracles.

It knows a model only as something with `generate_batch` and `codecs`. Off the diagonal a scene goes
in as one modality and comes out as another. The diagonal is text: question answering and
translation; image, video, shape: instructed edit; audio: speech translation. Chance answers with
another scene; the ceiling is the oracle on the ground truth after the target's codec.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Sequence
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
    """A Model is what the matrix measures: something that generates items from items."""

    codecs: dict[str, Any]

    def generate_batch(
        self, to: Modality, inputs: list[list[Any]], *, language: list[Language], seeds: list[int]
    ) -> list[Any]:
        """Return one item of modality `to` for each list of inputs (modality, item)."""
        ...


@dataclasses.dataclass(frozen=True)
class Outcome:
    """An Outcome holds the score of one generated item, and the score that another scene would have
    had."""

    score: Score
    chance: Score
    language: Language | None
    objects: int


class Items:
    """An Items holds the scenes of a split and their media, which are rendered on first use.

    `first` is the first scene's seed: settings are tried on other scenes than those that are
    reported (0 …).
    """

    def __init__(self, split: Split, count: int, codecs: dict[str, Any], first: int = 0) -> None:
        self.split, self.codecs = split, codecs
        self.scenes = [sample_scene(seed, split) for seed in range(first, first + count)]
        self.media = functools.cache(self._media)

    def language(self, index: int) -> Language:
        """Return the language of a scene's text and speech: Korean and English in turn."""
        return LANGUAGES[index % 2]

    def _media(self, modality: Modality, index: int, language: Language | None = None) -> Any:
        """Return a scene's item of a modality; text and speech are the same sentence."""
        return render(self.scenes[index], modality, language or self.language(index), self.split)

    def random(self, index: int) -> np.random.Generator:
        """Return a fresh random generator of a scene, in the same state each time."""
        return generator(self.split, self.scenes[index].seed)

    @functools.cached_property
    def ceilings(self) -> dict[Modality, list[Description | None]]:
        """Return by modality what the oracle sees of the ground truth after encoding and
        decoding."""
        descriptions: dict[Modality, list[Description | None]] = {
            "text": [s.description() for s in self.scenes]
        }
        for modality in MEDIA[1:]:
            codec = self.codecs[modality]
            truth = [self.media(modality, k) for k in range(len(self.scenes))]
            descriptions[modality] = [
                OBSERVE[modality](x) for x in codec.decode_batch(codec.encode_batch(truth))
            ]
        return descriptions


def render(scene: Scene, modality: Modality, language: Language, split: Split) -> Any:
    """Return the ground truth of a scene in a modality."""
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
    """Return the measurements of all cells, as the JSON that README describes. `samples` collects a
    few inputs and outputs of every cell."""
    start, cells = time.time(), []
    with Progress(transient=True) as progress:
        row = progress.add_task("matrix", total=25 * len(tuple(splits)))
        for split in splits:
            ground_truth = Items(split, items, model.codecs)
            for source in MEDIA:
                for target in MEDIA:
                    progress.update(row, description=f"{split}: {source} to {target}")
                    cells += cell(model, ground_truth, source, target, samples)
                    progress.advance(row)
        progress.update(row, description="second renderer and mixed inputs")
        further_rows = further(model, items)
    return {
        "items": items,
        "seconds": round(time.time() - start, 1),
        "cells": cells,
        "further": further_rows,
    }


def cell(
    model: Model,
    ground_truth: Items,
    source: Modality,
    target: Modality,
    samples: dict[str, Any] | None,
) -> list[dict[str, Any]]:
    """Return the rows of one cell and split: all items, by language, and by number of objects; two
    tasks on text's diagonal."""
    tasks: dict[str, Callable[..., dict[str, Any]]]
    if source != target:
        tasks = {"caption" if target == "text" else "generation": _measure_generation}
    elif source == "text":
        tasks = {"translation": _measure_generation, "question answering": _measure_answers}
    elif source == "audio":
        tasks = {"translation": _measure_generation}
    else:
        tasks = {"edit": _measure_edits}
    rows = []
    for task, run in tasks.items():
        result = run(model, ground_truth, source, target, samples)
        rows += summarise(
            result["outcomes"],
            {"from": source, "to": target, "split": ground_truth.split, "task": task},
            result.get("ceiling", {}),
            result.get("extra", {}),
        )
    return rows


def counted(source: Modality, target: Modality) -> frozenset[Attribute]:
    """Return the attributes that the source states and the target shows. A still source counts as
    stating that nothing moves, where the target can show motion."""
    stated = CARRIES[source]
    return CARRIES[target] & (stated if "motion" in stated else stated | {"motion"})


def expectation(
    scene: Scene, source: Modality
) -> tuple[Description, frozenset[tuple[int, str, int]]]:
    """Return what a source states of a scene: the description (for a still, without motion) and the
    relations, those named in a sentence or else one per pair."""
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
    """Return measurements for which the matrix has no cell: pictures of a renderer on which nothing
    was trained, and mixed inputs."""
    ground_truth, rows = Items(split, items, model.codecs), []
    pictures = [other.render(scene) for scene in ground_truth.scenes]
    targets: tuple[Modality, ...] = ("text", "shape")
    for target in targets:
        result = _measure_generation(model, ground_truth, "image", target, None, pictures)
        rows += [
            {
                "name": "second renderer",
                "from": "image",
                "to": target,
                **_summary(result["outcomes"]),
            }
        ]
    questions = [
        question(scene, ground_truth.language(k), ground_truth.random(k), motion=False)
        for k, scene in enumerate(ground_truth.scenes)
    ]
    languages, ones = [ground_truth.language(k) for k in range(items)], [1] * items
    spoken_questions = [
        audio.speak(q, languages[k], audio.sample_voice(ground_truth.random(k)))
        for k, (q, _) in enumerate(questions)
    ]
    inputs: list[list[Any]] = [
        [("image", ground_truth.media("image", k)), ("audio", spoken_questions[k])]
        for k in range(items)
    ]
    for to, hear_it in (("text", str), ("audio", hear.transcribe)):
        answers = model.generate_batch(
            to,  # type: ignore[arg-type]
            inputs,
            language=languages,
            seeds=list(range(items)),
        )
        answer_texts = [hear_it(answer) for answer in answers]  # type: ignore[operator]
        outcomes = _answer_outcomes(
            [right for _, right in questions], answer_texts, languages, ones
        )
        rows.append(
            {
                "name": "picture and spoken question",
                "from": "image + audio",
                "to": to,
                **_summary(outcomes),
            }
        )
    pairs = [(k, (k + 1) % items) for k in range(items)]
    comparisons = [
        comparison(
            len(ground_truth.scenes[a].things), len(ground_truth.scenes[b].things), languages[k]
        )
        for k, (a, b) in enumerate(pairs)
    ]
    inputs = [
        [*(("image", ground_truth.media("image", x)) for x in pair), ("text", comparisons[k][0])]
        for k, pair in enumerate(pairs)
    ]
    answer_texts = model.generate_batch(
        "text", inputs, language=languages, seeds=list(range(items))
    )
    outcomes = _answer_outcomes([right for _, right in comparisons], answer_texts, languages, ones)
    rows.append(
        {
            "name": "two pictures: which has more",
            "from": "image + image + text",
            "to": "text",
            **_summary(outcomes),
        }
    )
    return rows


def _summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the summary of outcomes: attribute accuracy with its 95 % interval, chance, and
    accuracy by attribute."""
    right_count, asked_count = (sum(o.score.attributes[k] for o in outcomes) for k in (0, 1))
    share, by_attribute = _accuracy([o.score for o in outcomes])
    return {
        "n": len(outcomes),
        "attribute_accuracy": share,
        "interval": list(wilson(right_count, asked_count)),
        "chance": _accuracy([o.chance for o in outcomes])[0],
        "by_attribute": by_attribute,
    }


def _measure_generation(
    model: Model,
    ground_truth: Items,
    source: Modality,
    target: Modality,
    samples: dict[str, Any] | None,
    items: list[Any] | None = None,
) -> dict[str, Any]:
    """Return the outcomes and the ceiling of scenes that go in as one modality (their own items, or
    `items`) and come out as another; for one and the same modality, in the other language."""
    count = len(ground_truth.scenes)
    source_languages: list[Language] = [ground_truth.language(k) for k in range(count)]
    target_languages = (
        source_languages
        if source != target
        else [LANGUAGES[1 - LANGUAGES.index(s)] for s in source_languages]
    )
    inputs = [(source, items[k] if items else ground_truth.media(source, k)) for k in range(count)]
    generated = model.generate_batch(
        target, [[g] for g in inputs], language=target_languages, seeds=list(range(count))
    )
    if samples is not None:
        samples[f"{source}-{target}-{ground_truth.split}"] = [
            (inputs[k], generated[k]) for k in range(min(2, count))
        ]
    attributes = counted(source, target)
    outcomes, ceiling_scores = [], []
    for k, item in enumerate(generated):
        expected, stated = expectation(ground_truth.scenes[k], source)
        relations_asked = None if target in SPOKEN and source not in SPOKEN else stated
        other_scene = ground_truth.scenes[(k + 7) % count].description()
        language = target_languages[k] if {source, target} & set(SPOKEN) else None
        outcomes.append(
            Outcome(
                score(expected, OBSERVE[target](item), attributes, relations_asked),
                score(expected, other_scene, attributes, relations_asked),
                language,
                len(expected.things),
            )
        )
        truth = ground_truth.scenes[k].description()
        ceiling_scores.append(
            score(
                truth,
                ground_truth.ceilings[target][k],
                attributes,
                relations_asked if relations_asked is None else stated,
            )
        )
    return {"outcomes": outcomes, "ceiling": _accuracy(ceiling_scores)}


def _measure_answers(
    model: Model,
    ground_truth: Items,
    source: Modality,
    target: Modality,
    samples: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the outcomes and the ceiling of question answering: a caption and a question about it
    go in, the answer comes out."""
    questions = []
    for k, scene in enumerate(ground_truth.scenes):
        questions.append(question(scene, ground_truth.language(k), ground_truth.random(k)))
    inputs = [
        [("text", ground_truth.media("text", k)), ("text", q)] for k, (q, _) in enumerate(questions)
    ]
    generated = model.generate_batch(
        "text",
        inputs,
        language=[ground_truth.language(k) for k in range(len(questions))],
        seeds=list(range(len(questions))),
    )
    if samples is not None:
        samples[f"text-question-{ground_truth.split}"] = [
            (("text", questions[k][0]), generated[k]) for k in range(min(2, len(generated)))
        ]
    outcomes = _answer_outcomes(
        [right for _, right in questions],
        generated,
        [ground_truth.language(k) for k in range(len(questions))],
        [len(scene.things) for scene in ground_truth.scenes],
    )
    return {"outcomes": outcomes, "ceiling": (1.0, {})}


def _answer_outcomes(
    expected: Sequence[str],
    answers: Sequence[str],
    languages: Sequence[Language],
    objects: Sequence[int],
) -> list[Outcome]:
    """Return the outcome of each answer to a question about a scene of some number of `objects`.

    Chance is what the expected answer to another question would score.
    """
    outcomes = []
    for k, right in enumerate(expected):
        other = expected[(k + 14) % len(expected)]
        outcomes.append(
            Outcome(
                _single_score(read.same_answer(right, answers[k])),
                _single_score(read.same_answer(right, other)),
                languages[k],
                objects[k],
            )
        )
    return outcomes


def _single_score(right: bool) -> Score:
    """Return the score of a single answer."""
    return Score({"answer": int(right)}, {"answer": 1})


def _measure_edits(
    model: Model,
    ground_truth: Items,
    source: Modality,
    target: Modality,
    samples: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the outcomes and the ceiling of instructed edits, and the shares of edited, kept and
    merely copied attributes: one attribute is to change and all others to stay."""
    attributes = CARRIES[target]
    edits: list[tuple[int, Edit]] = []
    for k, scene in enumerate(ground_truth.scenes):
        edit = sample_edit(
            ground_truth.random(k), scene, "motion" in attributes, ground_truth.split
        )
        edits += [(k, edit)] if edit else []
    instructions = [
        instruction(ground_truth.scenes[k], e, ground_truth.language(k), ground_truth.random(k))
        for k, e in edits
    ]
    inputs = [
        [(source, ground_truth.media(source, k)), ("text", s)]
        for (k, _), s in zip(edits, instructions)
    ]
    generated = model.generate_batch(
        target,
        inputs,
        language=[ground_truth.language(k) for k, _ in edits],
        seeds=list(range(len(edits))),
    )
    if samples is not None:
        samples[f"{source}-{target}-{ground_truth.split}"] = [
            ((source, inputs[k][0][1], instructions[k]), generated[k])
            for k in range(min(2, len(generated)))
        ]
    outcomes, edited_counts, kept_counts, copied_counts = [], [0, 0], [0, 0], [0, 0]
    for (k, edit), item in zip(edits, generated):
        original_scene, edited_scene = (
            ground_truth.scenes[k].description(),
            edit.apply(ground_truth.scenes[k]).description(),
        )
        stated = frozenset(r for r in edited_scene.relations if r[0] < r[2])
        observed = OBSERVE[target](item)
        whole_score = score(edited_scene, observed, attributes, stated)
        other_scene = ground_truth.scenes[(k + 7) % len(ground_truth.scenes)].description()
        outcomes.append(
            Outcome(
                whole_score,
                score(edited_scene, other_scene, attributes, stated),
                ground_truth.language(k),
                len(edited_scene.things),
            )
        )
        rest_score = score(
            _without_edited_attribute(edited_scene, edit), observed, attributes, stated
        )
        _add_counts(
            edited_counts,
            (
                whole_score.right[edit.attribute] - rest_score.right[edit.attribute],
                whole_score.asked[edit.attribute] - rest_score.asked[edit.attribute],
            ),
        )
        _add_counts(kept_counts, rest_score.attributes)
        _add_counts(
            copied_counts, score(edited_scene, original_scene, attributes, stated).attributes
        )
    extra = {
        "edited": edited_counts[0] / max(edited_counts[1], 1),
        "kept": kept_counts[0] / max(kept_counts[1], 1),
        "unchanged_copy": copied_counts[0] / max(copied_counts[1], 1),
    }
    ceiling = _accuracy(
        [
            score(
                s.description(), c, attributes, frozenset(r for r in s.relations() if r[0] < r[2])
            )
            for s, c in zip(ground_truth.scenes, ground_truth.ceilings[target])
        ]
    )
    return {"outcomes": outcomes, "ceiling": ceiling, "extra": extra}


def _without_edited_attribute(after: Description, edit: Edit) -> Description:
    """Return the description without the edited attribute."""
    things = list(after.things)
    erasure: dict[str, Any] = {edit.attribute: None}
    things[edit.index] = dataclasses.replace(things[edit.index], **erasure)
    return dataclasses.replace(after, things=tuple(things))


def _add_counts(total: list[int], more: tuple[int, int]) -> None:
    """Add a pair of numbers to a total in place."""
    total[0], total[1] = total[0] + more[0], total[1] + more[1]


def _accuracy(scores: list[Score]) -> tuple[float, dict[str, float]]:
    """Return the share of attributes right, over all attributes and by attribute."""
    right_count, asked_count = (
        sum(s.attributes[0] for s in scores),
        sum(s.attributes[1] for s in scores),
    )
    by_attribute: dict[str, float] = {
        str(a): sum(s.right[a] for s in scores) / n
        for a in ATTRIBUTES
        if scores and a in scores[0].asked and (n := sum(s.asked[a] for s in scores))
    }
    return right_count / max(asked_count, 1), by_attribute


def summarise(
    outcomes: list[Outcome],
    about: dict[str, Any],
    ceiling: tuple[float, dict[str, float]],
    extra: dict[str, float],
) -> list[dict[str, Any]]:
    """Return the JSON rows of outcomes: over all, by language, and by number of objects."""
    rows = []
    for language, objects in [
        ("all", "all"),
        *((lang, "all") for lang in LANGUAGES),
        *(("all", n) for n in (1, 2, 3)),
    ]:
        group = [
            o for o in outcomes if language in ("all", o.language) and objects in ("all", o.objects)
        ]
        if not group:
            continue
        right_count, asked_count = (
            sum(o.score.attributes[0] for o in group),
            sum(o.score.attributes[1] for o in group),
        )
        share, by_attribute = _accuracy([o.score for o in group])
        whole = language == "all" and objects == "all"
        rows.append(
            {
                **about,
                "objects": objects,
                "language": language,
                "n": len(group),
                "attribute_accuracy": share,
                "scene_accuracy": float(np.mean([o.score.scene for o in group])),
                "interval": list(wilson(right_count, asked_count)),
                "ceiling": ceiling[0],
                "chance": _accuracy([o.chance for o in group])[0],
                "by_attribute": by_attribute,
                **({"ceiling_by_attribute": ceiling[1], **extra} if whole else {}),
            }
        )
    return rows
