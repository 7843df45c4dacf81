"""This module defines `CodecSpec`, a codec's typed description of its codes, which is saved beside
its weights.

Data, language model, server and planner read a codec's spec, never a table in the code: a saved
model is described by its own folder, even if the code's defaults change. The module knows no
network and no modality by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from onnuri.config import Config


class Field(Config):
    """A Field is a run of consecutive positions whose codes come from one sub-range of the
    codebook."""

    name: str
    count: int
    """number of consecutive positions"""
    codes: int
    """size of the sub-range, without the code `absent`"""
    weight: float = 1.0
    """weight of a position in the language model's loss: less for what no input determines (pose,
    position, light)"""
    label_smoothing_sigma: float = 0.0
    """standard deviation, in codes, of the target distribution over neighbouring codes, if codes
    are ordinal; 0: one-hot"""
    optional: bool = True
    """whether the sub-range has an extra last code that means `absent`"""

    @property
    def span(self) -> int:
        """Return the size of the sub-range in the codebook."""
        return self.codes + int(self.optional)


class SlotLayout(Config):
    """A SlotLayout describes items of a fixed number of codes: fields in a fixed order, some once
    per item, some once per object.

    Fields of one name share one sub-range, so that an object has the same codes in every slot.
    """

    kind: Literal["slots"] = "slots"
    fields: tuple[Field, ...]
    """the sub-ranges, in codebook order"""
    order: tuple[str, ...]
    """field names in an item's order, each as often as it occurs"""
    slots: int
    """most objects that an item may hold"""

    def base(self, name: str) -> int:
        """Return the first code of a field's sub-range. Raises KeyError for an unknown field."""
        start = 0
        for field in self.fields:
            if field.name == name:
                return start
            start += field.span
        raise KeyError(name)

    def field(self, name: str) -> Field:
        """Return the field of a name. Raises KeyError for an unknown one."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    @property
    def num_codes(self) -> int:
        """Return the size of the codebook: the sum of the sub-ranges."""
        return sum(field.span for field in self.fields)

    @property
    def item_codes(self) -> int:
        """Return the number of codes of every item."""
        return sum(self.field(name).count for name in self.order)

    @property
    def weights(self) -> tuple[float, ...]:
        """Return each position's weight in the loss, [item_codes]."""
        fields = [self.field(name) for name in self.order]
        return tuple(field.weight for field in fields for _ in range(field.count))

    @property
    def position_ranges(self) -> tuple[tuple[int, int], ...]:
        """Return the codes [lo, hi) that are allowed at each position, [item_codes]."""
        ranges = {
            field.name: (self.base(field.name), self.base(field.name) + field.span)
            for field in self.fields
        }
        return tuple(ranges[name] for name in self.order for _ in range(self.field(name).count))

    @property
    def slot_gates(self) -> tuple[int | None, ...]:
        """Return, for each position, the first position of its object, whose code says whether the
        object is absent; None outside objects.

        The k-th occurrence of an optional field belongs to object k modulo `slots`.
        """
        firsts: list[int] = []
        gates: list[int | None] = []
        times: dict[str, int] = {}
        for name in self.order:
            field, slot = self.field(name), times.get(name, 0) % self.slots
            times[name] = times.get(name, 0) + 1
            for _ in range(field.count):
                if field.optional and slot == len(firsts):
                    firsts.append(len(gates))
                gates.append(firsts[slot] if field.optional else None)
        return tuple(gates)


class Stream(Config):
    """A Stream describes items of any length, as a plain sequence of codes."""

    kind: Literal["stream"] = "stream"
    hz: float | None = None
    """codes per second, if an item has a duration"""


class Grid(Config):
    """A Grid describes items of variable height and width: a code for the height, one for the
    width, then all cells row by row.

    The codes of heights 1 … max_height follow the codebook's, and those of widths follow them.
    """

    kind: Literal["grid"] = "grid"
    max_height: int
    max_width: int


class CodecSpec(Config):
    """A CodecSpec describes one codec of a model and its codes."""

    name: str
    """the codec's name in its model; its boundary tokens are `<|name|>` and `<|/name|>`"""
    codec: str
    """its class, as a key of `registry.CODECS`"""
    modality: str
    """what it encodes: text, image, audio, video or shape"""
    codebook: str
    """name of its range of the model's ids; codecs that name the same codebook share the range"""
    codebooks: tuple[int, ...]
    """sizes of its codebooks; with several, a frame has one code of each, and their ranges follow
    each other"""
    shape: SlotLayout | Stream | Grid
    flatten: Literal["serial", "delay"] = "serial"
    """order of several codebooks in a sequence: frame by frame, or each codebook one frame later
    than the one before (Copet et al. 2023, arXiv 2306.05284)"""
    max_codes: int
    """number of codes of the longest item that is encoded or generated"""

    @property
    def num_codes(self) -> int:
        """Return the number of codes of all codebooks together, those of a Grid's heights and
        widths included."""
        sizes = self.shape.max_height + self.shape.max_width if isinstance(self.shape, Grid) else 0
        return sum(self.codebooks) + sizes

    @property
    def slots(self) -> SlotLayout | None:
        """Return the slot layout; None if items have no fixed length."""
        return self.shape if isinstance(self.shape, SlotLayout) else None

    @property
    def item_codes(self) -> int | None:
        """Return the number of codes per item; None if it is not fixed."""
        return self.slots.item_codes if self.slots else None

    @property
    def open(self) -> str:
        """Return the token before an item."""
        return f"<|{self.name}|>"

    @property
    def close(self) -> str:
        """Return the token after an item."""
        return f"<|/{self.name}|>"

    def save_beside(self, folder: Path) -> None:
        """Write the spec to a codec's folder, where `read_beside` finds it."""
        self.save(folder / _file(self.name))

    @classmethod
    def read_beside(cls, folder: Path, name: str) -> CodecSpec:
        """Return the spec of a name from a codec's folder. Raises FileNotFoundError if there is
        none, and ConfigError for unknown fields."""
        return cls.load(folder / _file(name))


def _file(name: str) -> str:
    """Return the file name of a spec."""
    return f"spec-{name}.json"
