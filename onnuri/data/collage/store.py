"""This module makes many collages of a store's pictures and holds their codes.

    FOLDER/codes.npy      uint16 [N, K], the codes of each collage
    FOLDER/scenes.jsonl   what each shows
    FOLDER/names.json     the names of the concepts that they show

Collages show a few concepts, of which there are pictures in many styles, so that a small model can
learn them at half the size. A codec is given as a function; the module knows no other.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from onnuri import files
from onnuri.data.collage.render import render
from onnuri.data.collage.scene import CollageScene, CollageThing, sample_scene
from onnuri.data.collage.words import Names, names_to_tell
from onnuri.data.picture_store import PictureStore
from onnuri.data.picture_tasks import names_of
from onnuri.errors import ConfigError
from onnuri.modality import Language

CODES, SCENES, NAMES = "codes.npy", "scenes.jsonl", "names.json"
CONCEPTS = 60
"""concepts that collages show at most"""
STYLES = 4
"""styles of which a concept has pictures at least, if that many concepts have"""
LEAST = 4
"""concepts that scenes need"""
AT_ONCE = 64
"""collages that are encoded together"""
Encode = Callable[[list[np.ndarray]], Sequence[np.ndarray]]
"""a codec's `encode_batch`"""


class CollageStore:
    """A CollageStore gives collages' scenes and codes, and the names of what they show."""

    def __init__(self, folder: Path) -> None:
        """Open a folder that `write` made. Raises ConfigError if it holds no collages."""
        try:
            self.codes = np.load(folder / CODES, mmap_mode="r")
            lines = (folder / SCENES).read_text(encoding="utf-8").splitlines()
            self.scenes = [_scene_of(json.loads(line)) for line in lines]
            self.names: Names = json.loads((folder / NAMES).read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                str(folder), f"holds no collages ({error})", "write it anew"
            ) from None

    def __len__(self) -> int:
        return len(self.scenes)


def concepts_of(store: PictureStore) -> tuple[dict[str, list[int]], Names]:
    """Return the concepts that collages show: the numbers of the cut-out pictures of each that are
    trained on, and its names. They are those of most styles, chosen by the hash of their names;
    none, if there are fewer than LEAST."""
    pictures: dict[str, list[int]] = defaultdict(list)
    for number in store.of_split("train").tolist():
        if not store.items[number].is_whole and store.items[number].kind not in ("flag", "letter"):
            pictures[store.items[number].concept].append(number)
    names = names_to_tell({concept: _names(store, of) for concept, of in pictures.items()})
    styles = {c: len({store.items[n].style for n in pictures[c]}) for c in names}
    ranked = sorted(names, key=lambda c: (-min(styles[c], STYLES), _digest(c)))
    chosen = ranked[:CONCEPTS] if len(ranked) >= LEAST else []
    return {c: pictures[c] for c in chosen}, {c: names[c] for c in chosen}


def make(
    store: PictureStore, pictures: dict[str, list[int]], count: int, side: int, seed: int
) -> tuple[list[CollageScene], list[np.ndarray]]:
    """Return random scenes and their collages uint8 [side, side, 3]."""
    rng = np.random.default_rng(seed)
    concepts = list(pictures)
    scenes, made = [], []
    for _ in range(count):
        scene = sample_scene(concepts, rng)
        chosen = [int(rng.choice(pictures[thing.concept])) for thing in scene.things]
        scenes.append(scene)
        made.append(render(scene, [store.pixels[number] for number in chosen], side, rng))
    return scenes, made


def write(
    folder: Path, store: PictureStore, encode: Encode, side: int, count: int, seed: int = 0
) -> None:
    """Write `count` collages of a store's training pictures, encoded as pictures of a side; none if
    the store has too few concepts for them."""
    pictures, names = concepts_of(store)
    count = count if pictures else 0
    scenes: list[CollageScene] = []
    codes: list[np.ndarray] = []
    starts = range(0, count, AT_ONCE)
    for start in track(starts, "collages", len(starts), transient=True):
        some = min(AT_ONCE, count - start)
        more, made = make(store, pictures, some, side, seed + start)
        scenes += more
        codes += list(encode(made))
    with files.whole_folder(folder) as part:
        np.save(part / CODES, np.array(codes, np.uint16))
        lines = [json.dumps(scene, ensure_ascii=False) + "\n" for scene in scenes]
        (part / SCENES).write_text("".join(lines), encoding="utf-8")
        files.write_json(names, part / NAMES)


def _digest(concept: str) -> str:
    """Return a number, in hexadecimal digits, that says nothing of a concept."""
    return hashlib.sha256(concept.encode()).hexdigest()


def _scene_of(line: list[Any]) -> CollageScene:
    """Return a scene from its line."""
    kind, things, place, number = line
    return CollageScene(kind, tuple(CollageThing(*thing) for thing in things), place, number)


def _names(store: PictureStore, numbers: Sequence[int]) -> dict[Language, str]:
    """Return a concept's name in each language: that which most of its pictures have."""
    told: dict[Language, list[str]] = defaultdict(list)
    for number in numbers:
        for language, each in names_of(store.items[number]).items():
            told[language].append(each.name)
    return {language: max(names, key=names.count) for language, names in sorted(told.items())}
