"""THE table: a frozen row per medium, which codecs, data, decoding, evaluation and the server read.

Knows nothing of networks. An item of a medium is a sequence of codes between its boundary tokens. Media whose
items have a fixed grid say for every position which codes may stand there (`grid`); the others have a free length.
Image and video share one codebook (`visual`): a video is its first frame's image codes, then motion codes.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

Medium = Literal["text", "image", "audio", "video", "shape"]
MEDIA: tuple[Medium, ...] = ("text", "image", "audio", "video", "shape")
Attribute = Literal["solid", "color", "size", "relation", "motion"]
ATTRIBUTES: tuple[Attribute, ...] = ("solid", "color", "size", "relation", "motion")
Language = Literal["ko", "en"]
LANGUAGES: tuple[Language, ...] = ("ko", "en")
LANGUAGE_TOKENS = {"ko": "<|ko|>", "en": "<|en|>"}
"""The first token inside a text or audio segment says its language."""


def language_of(sentence: str) -> Language:
    """Korean if the sentence has any Hangul syllable, else English."""
    return "ko" if any("가" <= c <= "힣" for c in sentence) else "en"


Task = Literal["describe", "answer", "edit", "translate", "transcribe"]
TASKS: tuple[Task, ...] = ("describe", "answer", "edit", "translate", "transcribe")
"""what is asked of a model, where the inputs alone do not say it: a token before the answer"""


OBJECTS = 3
"""Objects an item's grid has room for."""
ObjectOrder = Literal["left", "diagonal"]
"""The order in which a codec writes objects down. `left`: from left to right. `diagonal`: by right plus down.

A sentence says which of two objects comes first only where their relation decides it. Left and right decide `left`, but
above and below do not: objects one above the other came in either order, and a model that drew code by code mixed the two.
The world's relations need one axis to exceed the other 1.5 times, so that any of the four decides `diagonal`.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """A run of grid positions that take their codes from one sub-range of the codebook."""

    name: str
    count: int
    """positions in a row"""
    codes: int
    """codes of the sub-range"""
    weight: float = 1.0
    """of a position in the language model's loss: what no input explains (pose, place, light) counts less"""
    spread: float = 0.0
    """where codes are in order: by how many a target may be off and say nearly the same (a standard deviation)"""
    optional: bool = True
    """whether an extra last code of the sub-range means `absent`"""

    @property
    def span(self) -> int:
        """Size of the sub-range in the codebook."""
        return self.codes + int(self.optional)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Fixed layout of an item: `head` fields once, then `each` fields for every object, `repeat` times over.

    Fields of the same name share one sub-range, so an object is written in the same codes wherever it stands.
    """

    fields: tuple[Field, ...]
    """every sub-range, in codebook order"""
    order: tuple[str, ...]
    """field names in the order in which an item has them, repeated as often as they occur"""

    def base(self, name: str) -> int:
        """First code of a field's sub-range."""
        start = 0
        for field in self.fields:
            if field.name == name:
                return start
            start += field.span
        raise KeyError(name)

    def field(self, name: str) -> Field:
        return next(f for f in self.fields if f.name == name)

    @property
    def weights(self) -> tuple[float, ...]:
        """For every position its weight in the loss."""
        return tuple(self.field(n).weight for n in self.order for _ in range(self.field(n).count))

    @property
    def codes(self) -> int:
        """Codebook size: the sum of the sub-ranges."""
        return sum(f.span for f in self.fields)

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """For every position the half-open range of codes that may stand there."""
        return tuple((self.base(n), self.base(n) + self.field(n).span)
                     for n in self.order for _ in range(self.field(n).count))

    @property
    def leads(self) -> tuple[int | None, ...]:
        """For every position its object's first, whose code says whether the object is absent; None outside objects."""
        firsts: list[int] = []
        found: list[int | None] = []
        times: dict[str, int] = {}
        for name in self.order:
            field, index = self.field(name), times.get(name, 0) % OBJECTS
            times[name] = times.get(name, 0) + 1
            for _ in range(field.count):
                new = field.optional and index == len(firsts)
                firsts += [len(found)] * new
                found.append(firsts[index] if field.optional else None)
        return tuple(found)


_VISUAL_FIELDS = (
    Field(name="background", count=4, codes=512, weight=0.2, optional=False),
    Field(name="color", count=1, codes=512, weight=3.0),
    Field(name="form", count=4, codes=512, weight=0.7),
    Field(name="x", count=1, codes=256, weight=0.7, spread=3.0),
    Field(name="y", count=1, codes=256, weight=0.7, spread=3.0),
    Field(name="width", count=1, codes=128, spread=1.5),
    Field(name="height", count=1, codes=128, spread=1.5),
    Field(name="motion", count=1, codes=1000),
)
_VISUAL_OBJECT = ("form", "color", "x", "y", "width", "height")
IMAGE_GRID = Grid(fields=_VISUAL_FIELDS, order=("background", *(_VISUAL_OBJECT * OBJECTS)))
VIDEO_CHUNKS = 4
"""A video's 17 frames are its first frame and four chunks of four."""
VIDEO_GRID = Grid(fields=_VISUAL_FIELDS, order=(*IMAGE_GRID.order, *(("motion",) * OBJECTS * VIDEO_CHUNKS)))
"""The motion code of chunk c and object o stands at 31 + 3 c + o: chunk by chunk, so that frames stream."""

SHAPE_GRID = Grid(
    fields=(
        Field(name="color", count=1, codes=512, weight=3.0),
        Field(name="form", count=4, codes=512, weight=0.7),
        Field(name="center", count=3, codes=256, weight=0.7, spread=3.0),
        Field(name="extent", count=3, codes=256, spread=2.0),
    ),
    order=("form", "color", "center", "extent") * OBJECTS,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modality:
    """One medium's row."""

    name: Medium
    codebook: str
    """which range of the vocabulary its codes come from; text's belongs to the tokenizer"""
    codes: int
    """codes in the codebook; 0 for text"""
    grid: Grid | None
    """fixed layout of an item; None where the length is free"""
    tokens_per_second: float | None
    max_tokens: int
    """longest item that is generated or read"""
    suffixes: tuple[str, ...]
    """file name endings that are read and written, the default first"""
    media_type: str
    """the default's media type (RFC 6838)"""
    carries: frozenset[Attribute]
    """attributes of a scene that the medium can show"""

    @property
    def open(self) -> str:
        return f"<|{self.name}|>"

    @property
    def close(self) -> str:
        return f"<|/{self.name}|>"

    @property
    def item_tokens(self) -> int | None:
        """Exact codes of an item, or None where the length is free."""
        return len(self.grid.ranges) if self.grid else None


_ALL = frozenset(ATTRIBUTES)
_STILL = _ALL - {"motion"}
TABLE: dict[Medium, Modality] = {
    m.name: m
    for m in (
        Modality(name="text", codebook="text", codes=0, grid=None, tokens_per_second=None, max_tokens=160,
                 suffixes=(".txt",), media_type="text/plain", carries=_ALL),
        Modality(name="image", codebook="visual", codes=IMAGE_GRID.codes, grid=IMAGE_GRID, tokens_per_second=None,
                 max_tokens=len(IMAGE_GRID.ranges), suffixes=(".png", ".jpg", ".jpeg", ".webp"), media_type="image/png",
                 carries=_STILL),
        Modality(name="audio", codebook="audio", codes=4096, grid=None, tokens_per_second=25.0, max_tokens=384,
                 suffixes=(".wav", ".flac", ".mp3", ".ogg", ".opus"), media_type="audio/wav", carries=_ALL),
        Modality(name="video", codebook="visual", codes=VIDEO_GRID.codes, grid=VIDEO_GRID, tokens_per_second=None,
                 max_tokens=len(VIDEO_GRID.ranges), suffixes=(".mp4", ".webm", ".gif"), media_type="video/mp4", carries=_ALL),
        Modality(name="shape", codebook="shape", codes=SHAPE_GRID.codes, grid=SHAPE_GRID, tokens_per_second=None,
                 max_tokens=len(SHAPE_GRID.ranges), suffixes=(".glb", ".obj", ".ply", ".stl"), media_type="model/gltf-binary",
                 carries=_STILL),
    )
}

IMAGE_SIZE = 128
"""pixels, height and width"""
VIDEO_FRAMES = 17
VIDEO_FPS = 8
AUDIO_HZ = 16_000
VOXELS = 64
"""voxels a side of a shape's cube, which spans the world's [-1, 1]³"""
