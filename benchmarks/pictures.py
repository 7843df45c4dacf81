"""What `onnuri demo` makes of one Korean and one English sentence, as strips for README: `make
pictures`.

Picture, five frames of the video, waveform of the speech and the 3D model from the front; nothing
is chosen by hand: seed 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import onnuri
from onnuri.toyworld.oracles.report import front

SENTENCES = {
    "ko": "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다",
    "en": "A large yellow star is above a small green cone.",
}
SIZE, GAP = 128, 6


def waveform(samples: np.ndarray) -> np.ndarray:
    """uint8 [128, 256, 3]."""
    picture = np.full((SIZE, 2 * SIZE, 3), 250, np.uint8)
    for x, part in enumerate(np.array_split(samples, 2 * SIZE)):
        low, high = (
            int(np.clip(SIZE / 2 * (1 - 2.2 * v), 0, SIZE - 1)) for v in (part.max(), part.min())
        )
        picture[low : high + 1, x] = (40, 90, 160)
    return picture


def main() -> None:
    model = onnuri.load()
    for language, sentence in SENTENCES.items():
        made = {
            m: model.generate(m, text=sentence, language=language)
            for m in ("image", "video", "audio", "shape")
        }
        shape = np.asarray(
            Image.fromarray(front(made["shape"])).resize((SIZE, SIZE), Image.Resampling.NEAREST)
        )
        tiles = [made["image"], *made["video"][::4], waveform(made["audio"]), shape]
        strip = [x for tile in tiles for x in (tile, np.full((SIZE, GAP, 3), 255, np.uint8))][:-1]
        path = Path(__file__).parents[1] / "docs" / f"demo-{language}.png"
        Image.fromarray(np.concatenate(strip, 1)).save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    main()
