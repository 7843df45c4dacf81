"""This module measures a model on collages: whether it tells what stands where, and draws what a
sentence says, in wordings that it was not trained on.

What is told is read by the grammar (`data/collage/words.py`), so any wording of the same scene is
right. Of a drawing, the part where each thing must stand is judged by the real pictures that it is
nearest to; sizes and tints of drawings are not judged. Scenes are new; their cut-outs are of
training pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from onnuri.config import Config
from onnuri.data.collage.render import boxes
from onnuri.data.collage.scene import CollageScene
from onnuri.data.collage.store import concepts_of, make
from onnuri.data.collage.words import Names, read, tell
from onnuri.data.picture_store import PictureStore
from onnuri.evaluation.pictures import of_store
from onnuri.evaluation.retrieval import Share, nearest, share
from onnuri.modality import LANGUAGES

SEED = 1_000_003
"""of the scenes that are measured, far from those of training"""
PICTURES = 6
"""real pictures of each concept, at most, among which a thing's nearest is looked for"""
WIDER = 1.08
"""side of the part that is judged over that of a thing's box"""
AT_ONCE = 64
"""answers that are generated together"""
DRAWN_KINDS = ("one", "two")
"""kinds of scenes that are drawn"""


class CollageFigures(Config):
    """A CollageFigures holds how a model tells and draws collages, by kinds of scenes."""

    told: dict[str, Share]
    """scenes told wholly right: every thing with its size and tint, and how they stand"""
    relations: dict[str, Share]
    """pairs told as pairs whose relation is right, whatever the things are called: "left" and
    "top" are of what stands left and right, and above and below"""
    drawn: dict[str, Share]
    """drawings in which every thing is nearest to a real picture of it"""
    real: dict[str, Share]
    """the same of the real collages"""
    round_trip: dict[str, Share]
    """the same of these as the codec gives them back"""
    chance: float
    """of one thing"""


def relation_right(scene: CollageScene, told: CollageScene) -> bool:
    """Return whether the relation of a pair was told right: the same, and not of the two things
    exchanged."""
    first, second = (thing.concept for thing in scene.things)
    says = tuple(thing.concept for thing in told.things)
    exchanged = says[0] == second or says[1] == first
    return told.place == scene.place and not exchanged


def measure(
    model: Any,
    store: PictureStore,
    judge: Any,
    count: int,
    tell_progress: Callable[[int], None] = lambda n: None,
) -> CollageFigures | None:
    """Return a model's figures on `count` random collages of a store's training pictures; None if
    the store has too few concepts for them."""
    codec = model.codecs["image"]
    pictures, names = concepts_of(store)
    if not pictures:
        return None
    scenes, real = make(store, pictures, count, codec.side, SEED)
    told, relations = _told(model, scenes, real, names, tell_progress)
    chosen = [k for k, scene in enumerate(scenes) if scene.kind in DRAWN_KINDS]
    own = [scenes[k] for k in chosen]
    rng = np.random.default_rng(SEED)
    drawn: list[np.ndarray] = []
    for start in range(0, len(own), AT_ONCE):
        some = own[start : start + AT_ONCE]
        sentences = [
            tell(scene, names, LANGUAGES[k % 2], rng, held=True) for k, scene in enumerate(some)
        ]
        seeds = list(range(start, start + len(some)))
        drawn += model.generate_batch("image", [[("text", s)] for s in sentences], seeds=seeds)
        tell_progress(len(some))
    shown = [real[k] for k in chosen]
    back = codec.decode_batch(codec.encode_batch(shown))
    gallery, concepts = _gallery(store, pictures, codec.side, judge)
    return CollageFigures(
        told=told,
        relations=relations,
        drawn=_recognised(own, drawn, gallery, concepts, judge),
        real=_recognised(own, shown, gallery, concepts, judge),
        round_trip=_recognised(own, back, gallery, concepts, judge),
        chance=round(1 / len(pictures), 5),
    )


def _told(
    model: Any,
    scenes: Sequence[CollageScene],
    pictures: Sequence[np.ndarray],
    names: Names,
    tell_progress: Callable[[int], None],
) -> tuple[dict[str, Share], dict[str, Share]]:
    """Return the shares of scenes told wholly right, by kind, and of pairs with the right relation,
    in both languages together."""
    right: dict[str, list[bool]] = defaultdict(list)
    relations: dict[str, list[bool]] = defaultdict(list)
    for language in LANGUAGES:
        for start in range(0, len(scenes), AT_ONCE):
            some = scenes[start : start + AT_ONCE]
            inputs = [[("image", picture)] for picture in pictures[start : start + AT_ONCE]]
            answers = model.generate_batch("text", inputs, language=language, temperature=0.0)
            for scene, answer in zip(some, answers, strict=True):
                told = read(answer, names, language)
                right[scene.kind].append(told == scene)
                if scene.kind == "two" and scene.place and told and told.kind == "two":
                    relations[scene.place].append(relation_right(scene, told))
            tell_progress(len(some))
    return _shares(right), _shares(relations)


def _gallery(
    store: PictureStore, pictures: dict[str, list[int]], side: int, judge: Any
) -> tuple[np.ndarray, list[str]]:
    """Return the judge's vectors [n, F] of real pictures and the concept of each."""
    numbers = [(number, concept) for concept, of in pictures.items() for number in of[:PICTURES]]
    shown = [given.pixels for given in of_store(store, [number for number, _ in numbers], side)]
    return judge.features(shown), [concept for _, concept in numbers]


def _recognised(
    scenes: Sequence[CollageScene],
    pictures: Sequence[np.ndarray],
    gallery: np.ndarray,
    concepts: Sequence[str],
    judge: Any,
) -> dict[str, Share]:
    """Return the shares of collages in which the judge recognises every thing, by kind."""
    parts = [part for s, p in zip(scenes, pictures, strict=True) for part in parts_of(s, p)]
    found = nearest(judge.features(parts), gallery, 1)[:, 0].tolist()
    right: dict[str, list[bool]] = defaultdict(list)
    at = 0
    for scene in scenes:
        wanted = [scene.things[box.thing].concept for box in boxes(scene)]
        seen = [concepts[k] for k in found[at : at + len(wanted)]]
        at += len(wanted)
        right[scene.kind].append(seen == wanted)
    return _shares(right)


def parts_of(scene: CollageScene, picture: np.ndarray) -> list[np.ndarray]:
    """Return the part of a picture uint8 [S, S, 3] where each thing of a scene must stand, uint8
    [S, S, 3]."""
    side = picture.shape[0]
    image = Image.fromarray(picture)
    parts = []
    for box in boxes(scene):
        half = box.side * WIDER / 2
        left, top, right, bottom = (
            side * min(max(v, 0.0), 1.0)
            for v in (box.x - half, box.y - half, box.x + half, box.y + half)
        )
        area = (left, top, right, bottom)
        sized = image.resize((side, side), Image.Resampling.BICUBIC, box=area)
        parts.append(np.asarray(sized))
    return parts


def _shares(right: dict[str, list[bool]]) -> dict[str, Share]:
    """Return shares by kind."""
    return {kind: share(each) for kind, each in sorted(right.items())}
