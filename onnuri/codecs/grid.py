"""This module implements the picture codec for anything: a picture becomes a grid of codes, one per
square cell, row by row, and comes back whole.

It knows nothing of objects or words. Convolutions take the pixels to cells, attention among cells
lets each say what the others do not, and each is quantized to a code of five digits; the decoder is
the mirror of it. Codes with like digits look alike, and a language model may read and write a code
by its digits. What a code stands for is a point of a fixed grid, or a patch that was found in data,
beside which the networks learn only what is missing: on two CPU cores that is far ahead
(docs/pictures.md).

A film is frames through the same networks: where `time_blocks` are asked for, blocks that look at
earlier frames alone stand beside the cells, and begin as if they were not there. The weights of a
picture codec are therefore a film codec's start.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from onnuri import config
from onnuri.codecs.base import Codec
from onnuri.codecs.codebook import Codebook
from onnuri.codecs.fsq import FSQ
from onnuri.codecs.spec import CodecSpec, Field, SlotLayout
from onnuri.errors import ConfigError
from onnuri.modality import Modality

GROUPS = 8
"""groups of channels that are normalized together"""
HEAD = 64
"""channels of an attention head, at most"""
AT_ONCE = 32
"""pictures that go through the networks together"""


class GridConfig(config.Config):
    """A GridConfig holds the sizes of the networks. The defaults are 64 codes of 128 pixels."""

    side: int = 128
    """pixels per side of a picture as the networks see it"""
    stem: int = 4
    """pixels per side of the patches that the first convolution takes"""
    strides: tuple[int, ...] = (2, 2)
    """factors by which each level is coarser than the one before; with the stem's, a cell's side"""
    widths: tuple[int, ...] = (96, 192, 384)
    """channels of every level, the cells' last; multiples of 8"""
    blocks: int = 2
    """convolution blocks per level above the cells"""
    cell_blocks: int = 3
    """attention blocks among the cells, before and after quantization"""
    time_blocks: int = 0
    """blocks that look at earlier frames, before and after quantization; 0: pictures alone"""
    levels: tuple[int, ...] = (8, 8, 8, 5, 5)
    """levels of a code's digits: 12,800 codes"""
    components: int = 0
    """principal components of a cell's pixels, in which codes stand for vectors that were found in
    data (`codebook.py`) and beside which the networks learn what is missing; 0: codes are points of
    a fixed grid (`fsq.py`)"""

    @property
    def cell(self) -> int:
        """Return the pixels per side of a cell."""
        return self.stem * math.prod(self.strides)

    @property
    def channels(self) -> int:
        """Return the numbers that a code stands for."""
        return self.components or len(self.levels)

    @property
    def cells(self) -> int:
        """Return the cells per side of a picture."""
        return self.side // self.cell

    def check(self) -> None:
        """Raise ConfigError for sizes that do not fit together."""
        if self.side % self.cell or self.side < self.cell:
            raise ConfigError(
                f"side {self.side}",
                f"is no multiple of a cell's {self.cell} pixels",
                f"give such as {max(1, round(self.side / self.cell)) * self.cell}",
            )
        if len(self.widths) != len(self.strides) + 1:
            raise ConfigError(
                f"widths {self.widths}",
                f"are not one more than the {len(self.strides)} strides",
                "give a width per level",
            )
        if wrong := [width for width in self.widths if width % GROUPS]:
            raise ConfigError(
                f"width {wrong[0]}", f"is no multiple of {GROUPS}", "give one that is"
            )


def config_64() -> GridConfig:
    """Return the config of 64 codes of 64 pixels, whose steps two CPU cores can take."""
    return GridConfig(side=64, strides=(2,), widths=(96, 192), components=48)


def config_128() -> GridConfig:
    """Return the config of 64 codes of 128 pixels."""
    return GridConfig()


def config_144() -> GridConfig:
    """Return the config of 144 codes, of cells of 12 pixels of a picture of 144."""
    return GridConfig(side=144, strides=(3,), widths=(128, 384), cell_blocks=4)


CONFIGS = {"64": config_64, "128": config_128, "144": config_144}
"""configs by name"""


def grid_spec(settings: GridConfig, name: str = "image") -> CodecSpec:
    """Return the spec of a new codec: one field of a code per cell."""
    codes = math.prod(settings.levels)
    field = Field(name="cell", count=settings.cells**2, codes=codes, optional=False)
    return CodecSpec(
        name=name,
        codec="grid",
        modality="image",
        codebook="grid",
        codebooks=(codes,),
        shape=SlotLayout(fields=(field,), order=("cell",), slots=1),
        max_codes=settings.cells**2,
    )


class PixelBlock(nn.Module):
    """A PixelBlock is a residual block of two convolutions of kernel 3 on [B, C, H, W]. It is the
    identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = (nn.GroupNorm(GROUPS, width) for _ in range(2))
        self.first, self.second = (nn.Conv2d(width, width, 3, 1, 1) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of its input's shape."""
        y = self.first(F.silu(self.first_norm(x)))
        y = self.second(F.silu(self.second_norm(y)))
        return x + y


class CellBlock(nn.Module):
    """A CellBlock lets all cells [B, K, C] of a picture attend to each other, and then works on
    each (Vaswani et al. 2017, normalized before)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of its input's shape."""
        batch, cells, width = x.shape
        qkv = self.to_qkv(self.norm(x)).view(batch, cells, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, cells, width))
        y: Tensor = self.down(F.gelu(self.up(self.second_norm(x))))
        return x + y


class TimeBlock(nn.Module):
    """A TimeBlock mixes each cell with itself in the two frames before, [B, F, K, C]; before the
    first frame there is nothing. It begins as the identity."""

    SPAN = 3
    """frames that a block sees"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(self.SPAN * width, width), nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of its input's shape."""
        past = F.pad(self.norm(x), (0, 0, 0, 0, self.SPAN - 1, 0))
        frames = x.shape[1]
        seen = torch.cat([past[:, k : k + frames] for k in range(self.SPAN)], -1)
        y: Tensor = self.out(F.gelu(self.mix(seen)))
        return x + y


class Cells(nn.Module):
    """A Cells is the part of encoder and decoder that works on cells: attention among them, and
    among frames where there are several."""

    def __init__(self, settings: GridConfig) -> None:
        super().__init__()
        width = settings.widths[-1]
        self.places = nn.Parameter(torch.randn(settings.cells**2, width) * 0.02)
        self.blocks = nn.ModuleList(CellBlock(width) for _ in range(settings.cell_blocks))
        self.time = nn.ModuleList(TimeBlock(width) for _ in range(settings.time_blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Return cells [B, F, K, C] of cells of that shape."""
        batch, frames, cells, width = x.shape
        x = x + self.places
        for block in self.time:
            x = block(x)
        flat = x.reshape(batch * frames, cells, width)
        for block in self.blocks:
            flat = block(flat)
        return flat.view(batch, frames, cells, width)


class GridEncoder(nn.Module):
    """A GridEncoder maps frames [B, F, 3, S, S] in [-1, 1] to values [B, F, K, D]."""

    def __init__(self, settings: GridConfig) -> None:
        super().__init__()
        widths, stem = settings.widths, settings.stem
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 2 * stem - 1, stem, stem - 1)]
        for width, wider, stride in zip(widths, widths[1:], settings.strides, strict=False):
            layers += [PixelBlock(width) for _ in range(settings.blocks)]
            layers += [nn.GroupNorm(GROUPS, width), nn.Conv2d(width, wider, stride, stride)]
        self.layers = nn.Sequential(*layers)
        self.cells = Cells(settings)
        self.norm = nn.LayerNorm(widths[-1])
        self.values = nn.Linear(widths[-1], settings.channels)
        self.components = Components(settings) if settings.components else None
        if self.components:
            nn.init.zeros_(self.values.weight)
            nn.init.zeros_(self.values.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the values of frames, not yet quantized."""
        batch, count = frames.shape[:2]
        maps = self.layers(frames.flatten(0, 1))
        cells = self.cells(maps.flatten(2).transpose(1, 2).unflatten(0, (batch, count)))
        values: Tensor = self.values(self.norm(cells))
        return values + self.components.of(frames) if self.components else values


class Components(nn.Module):
    """A Components maps the pixels of cells to their principal components and back."""

    basis: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, settings: GridConfig) -> None:
        super().__init__()
        self.cell, self.side = settings.cell, settings.cells
        pixels = 3 * settings.cell**2
        # found in data, not learned by gradients
        self.register_buffer("basis", torch.zeros(settings.components, pixels))
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("spread", torch.ones(settings.components))

    def pixels(self, frames: Tensor) -> Tensor:
        """Return the pixels of cells [B, F, K, 3 cell²] of frames [B, F, 3, S, S]."""
        maps = F.pixel_unshuffle(frames.flatten(0, 1), self.cell).flatten(2)
        return maps.transpose(1, 2).unflatten(0, frames.shape[:2])

    def of(self, frames: Tensor) -> Tensor:
        """Return the components [B, F, K, D] of frames [B, F, 3, S, S]."""
        return (self.pixels(frames) - self.mean) @ self.basis.T

    def frames(self, values: Tensor) -> Tensor:
        """Return the frames [B, F, 3, S, S] of components [B, F, K, D]."""
        maps = (values @ self.basis + self.mean).flatten(0, 1).transpose(1, 2)
        maps = F.pixel_shuffle(maps.unflatten(2, (self.side, self.side)), self.cell)
        return maps.unflatten(0, values.shape[:2])


class GridDecoder(nn.Module):
    """A GridDecoder maps quantized values [B, F, K, D] to frames [B, F, 3, S, S] in [-1, 1] or
    slightly beyond."""

    def __init__(self, settings: GridConfig) -> None:
        super().__init__()
        widths, stem = settings.widths, settings.stem
        self.side = settings.cells
        self.values = nn.Linear(settings.channels, widths[-1])
        self.components = Components(settings) if settings.components else None
        self.unknown = nn.Parameter(torch.zeros(widths[-1]))
        self.cells = Cells(settings)
        layers: list[nn.Module] = []
        steps = list(zip(widths, widths[1:], settings.strides, strict=False))
        for width, wider, stride in reversed(steps):
            layers += [nn.GroupNorm(GROUPS, wider), nn.Conv2d(wider, width * stride**2, 1)]
            layers += [nn.PixelShuffle(stride)]
            layers += [PixelBlock(width) for _ in range(settings.blocks)]
        layers += [nn.GroupNorm(GROUPS, widths[0]), nn.SiLU()]
        layers += [nn.Conv2d(widths[0], 3 * stem**2, 3, 1, 1), nn.PixelShuffle(stem)]
        if self.components:  # what the networks add to the components begins as nothing
            last = layers[-2]
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the frames of values. Of each frame only the first `known` [B] cells count, if
        given; the others are as the decoder has learned to leave them."""
        scaled = values / self.components.spread if self.components else values
        cells = self.values(scaled)
        if known is not None:
            is_known = known_cells(known, cells.shape[2])[:, None, :, None]
            cells = torch.where(is_known, cells, self.unknown)
            values = torch.where(is_known, values, 0)
        cells = self.cells(cells)
        maps = cells.flatten(0, 1).transpose(1, 2).unflatten(2, (self.side, self.side))
        frames: Tensor = self.layers(maps).unflatten(0, values.shape[:2])
        return frames + self.components.frames(values) if self.components else frames


class GridCodec(Codec):
    """A GridCodec encodes pictures uint8 [H, W, 3] of any size as one code per cell, row by row.

    A picture is resized to the networks' side, its longer side whole, and what is missing of a
    square repeats the picture's edge. It decodes to that side.
    """

    modality: ClassVar[Modality] = "image"
    on_gpu: ClassVar[bool] = True
    Config: ClassVar[Any] = GridConfig

    def __init__(self, config: GridConfig | None = None, spec: CodecSpec | None = None) -> None:
        settings = config or GridConfig()
        settings.check()
        super().__init__(settings, spec or grid_spec(settings))
        self.encoder, self.decoder = GridEncoder(settings), GridDecoder(settings)
        self.quantizer: FSQ | Codebook = FSQ(settings.levels)
        if settings.components:
            self.quantizer = Codebook(settings.levels, settings.components)

    def forward(self, frames: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return frames [B, F, 3, S, S] as they come back, their quantized values [B, F, K, D] and
        the values before, all with gradients. `known` is as in `GridDecoder.forward`."""
        values = self.encoder(frames)
        quantized = self.quantizer(values)
        return self.decoder(quantized, known), quantized, values

    @property
    def side(self) -> int:
        """Return the side, in pixels, of the pictures that it decodes."""
        side: int = self.config.side
        return side

    def scaled(self, values: Tensor) -> Tensor:
        """Return values [..., D] as numbers of about one."""
        components = self.decoder.components
        return values / components.spread if components else values

    def distance(self, quantized: Tensor, values: Tensor) -> Tensor:
        """Return the mean squared distance [], in units of white per pixel, of values to what they
        were quantized to, which is not moved."""
        error = (values - quantized.detach()).square().sum(-1).mean()
        return error / (4 * 3 * self.config.cell**2)

    @torch.inference_mode()
    def encode_batch(self, items: list[np.ndarray]) -> list[np.ndarray]:
        """Return the codes int64 [K] of every picture."""
        codes: list[np.ndarray] = []
        for start in range(0, len(items), AT_ONCE):
            squares = [square(item, self.config.side) for item in items[start : start + AT_ONCE]]
            pixels = torch.from_numpy(np.stack(squares)).to(self.device)
            frames = pixels.permute(0, 3, 1, 2).float()[:, None] / 127.5 - 1
            codes += list(self.quantizer.encode(self.encoder(frames))[:, 0].cpu().numpy())
        return codes

    @torch.inference_mode()
    def decode_batch(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        """Return the picture uint8 [S, S, 3] of every sequence of codes."""
        return self._decode(codes, None)

    @property
    def partial_counts(self) -> tuple[int, ...]:
        """Return after how many codes a picture can be shown: after each row of cells."""
        side = self.config.cells
        return tuple(range(side, side * side, side))

    @torch.inference_mode()
    def partial(self, codes: np.ndarray) -> np.ndarray:
        """Return the picture uint8 [S, S, 3] of which only the first codes are known."""
        whole = np.zeros(self.config.cells**2, np.int64)
        whole[: len(codes)] = codes
        return self._decode([whole], torch.tensor([len(codes)]))[0]

    def code_features(self) -> Tensor:
        """Return what every code stands for, float32 [codes, D]."""
        codes = torch.arange(self.quantizer.num_codes, device=self.device)
        return self.quantizer.decode(codes).float().cpu()

    def _decode(self, codes: list[np.ndarray], known: Tensor | None) -> list[np.ndarray]:
        """Return the pictures of whole sequences of codes, of which the first `known` count."""
        pictures: list[np.ndarray] = []
        for start in range(0, len(codes), AT_ONCE):
            batch = torch.from_numpy(np.stack(codes[start : start + AT_ONCE])).to(self.device)
            values = self.quantizer.decode(batch)[:, None]
            frames = self.decoder(values, None if known is None else known.to(self.device))[:, 0]
            # + 0.5, because the cast to uint8 truncates
            levels = ((frames.float() + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8)
            pictures += list(levels.permute(0, 2, 3, 1).cpu().numpy())
        return pictures


def known_cells(known: Tensor, count: int) -> Tensor:
    """Return bool [B, count]: the first `known` [B] of each picture's cells."""
    return torch.arange(count, device=known.device) < known[:, None]


def square(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture uint8 [H, W, C] within a square [side, side, C]: resized so that its longer
    side is whole, centred, with its edges repeated."""
    height, width = picture.shape[:2]
    if (height, width) == (side, side):
        return picture
    scale = side / max(height, width)
    rows, columns = (max(1, min(side, round(size * scale))) for size in (height, width))
    # Pillow's bicubic widens its kernel where it makes smaller: no aliasing
    resized = Image.fromarray(picture).resize((columns, rows), Image.Resampling.BICUBIC)
    top, left = (side - rows) // 2, (side - columns) // 2
    margins = ((top, side - rows - top), (left, side - columns - left), (0, 0))
    return np.pad(np.asarray(resized), margins, mode="edge")
