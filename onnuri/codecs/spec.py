"""What a codec's codes look like: a typed record that each codec carries, saved beside its weights
and read back from there.

Data, language model, server and planner read a codec's `CodecSpec`, never a table of the code: a
model that was saved today is read by its own folder, whatever the code's defaults are by then.
Knows no network and no medium by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from onnuri.config import Config


class Field(Config):
    """A run of positions that take their codes from one sub-range of the codebook."""

    name: str
    count: int
    """positions in a row"""
    codes: int
    """codes of the sub-range"""
    weight: float = 1.0
    """of a position in the language model's loss: what no input explains (pose, place, light)
    counts less"""
    label_smoothing_sigma: float = 0.0
    """codes by which a target may be off and say nearly the same, where codes are in order (a
    standard deviation)"""
    optional: bool = True
    """whether an extra last code of the sub-range means `absent`"""

    @property
    def span(self) -> int:
        """Return the size of the sub-range in the codebook."""
        return self.codes + int(self.optional)


class SlotLayout(Config):
    """Items of a fixed number of codes: fields in a fixed order, some of them once, some once for
    every object.

    Fields of one name share one sub-range, so that an object is written in the same codes wherever
    it stands.
    """

    kind: Literal["slots"] = "slots"
    fields: tuple[Field, ...]
    """every sub-range, in codebook order"""
    order: tuple[str, ...]
    """field names in the order in which an item has them, repeated as often as they occur"""
    slots: int
    """objects that an item has room for"""

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
        """Return every position's weight in the loss."""
        fields = [self.field(name) for name in self.order]
        return tuple(field.weight for field in fields for _ in range(field.count))

    @property
    def position_ranges(self) -> tuple[tuple[int, int], ...]:
        """Return, for every position, the half-open range of codes that may stand there."""
        ranges = {
            field.name: (self.base(field.name), self.base(field.name) + field.span)
            for field in self.fields
        }
        return tuple(ranges[name] for name in self.order for _ in range(self.field(name).count))

    @property
    def slot_gates(self) -> tuple[int | None, ...]:
        """Return, for every position, the first position of its object, whose code says whether the
        object is absent.

        None outside objects. The k-th time that an optional field occurs belongs to object k modulo
        `slots`.
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
    """Items of any length, one code after another."""

    kind: Literal["stream"] = "stream"
    hz: float | None = None
    """codes a second, where time passes in an item"""


class Grid(Config):
    """Items of a height and a width of their own: a code of the height, one of the width, then all
    cells row by row.

    Codes of heights 1 … max_height stand behind the codebook's, those of widths behind them.
    """

    kind: Literal["grid"] = "grid"
    max_height: int
    max_width: int


class CodecSpec(Config):
    """A codec's description of itself."""

    name: str
    """of the codec in a model; its boundary tokens are `<|name|>` and `<|/name|>`"""
    codec: str
    """its class: a name of `registry.CODECS`"""
    modality: str
    """what it codes: text, image, audio, video or shape"""
    codebook: str
    """range of the model's ids that its codes stand in; codecs that name the same one share it"""
    codebooks: tuple[int, ...]
    """sizes; with several, a frame has a code of each, and their ranges lie one behind the other"""
    shape: SlotLayout | Stream | Grid
    flatten: Literal["serial", "delay"] = "serial"
    """order of several codebooks in a sequence: frame by frame, or each a frame later than the one
    before (Copet et al. 2023, arXiv 2306.05284)"""
    max_codes: int
    """codes of the longest item that is read or generated"""

    @property
    def num_codes(self) -> int:
        """Return the number of codes of all codebooks together, and of heights and widths where
        items have them."""
        sizes = self.shape.max_height + self.shape.max_width if isinstance(self.shape, Grid) else 0
        return sum(self.codebooks) + sizes

    @property
    def slots(self) -> SlotLayout | None:
        """Return the layout of items of fixed length; None where their length is free."""
        return self.shape if isinstance(self.shape, SlotLayout) else None

    @property
    def item_codes(self) -> int | None:
        """Return the codes of every item; None where the length is free."""
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
        """Write the file that `read_beside` reads."""
        self.save(folder / _file(self.name))

    @classmethod
    def read_beside(cls, folder: Path, name: str) -> CodecSpec:
        """Return the spec that a codec's folder holds. Raises FileNotFoundError and ConfigError."""
        return cls.load(folder / _file(name))


def _file(name: str) -> str:
    return f"spec-{name}.json"
