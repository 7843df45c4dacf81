"""What is not of the world: sentences, pictures and shapes of many kinds, each drawn from a seed.
Knows no model.

`TEST_*` are what `unknown.py` reports; `CALIBRATION_*` are other kinds, which thresholds are set
on.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onnuri.modality import LANGUAGES
from onnuri.toyworld.scene import sample_scene
from onnuri.toyworld.text import caption
from onnuri.toyworld.words import COLOR, SIZE

Rng = np.random.Generator


def _one(rng: Rng, among: list[str]) -> str:
    return among[int(rng.integers(len(among)))]


_PEOPLE = [
    "my brother",
    "the teacher",
    "our neighbour",
    "a doctor",
    "the mayor",
    "my grandmother",
    "a tourist",
    "the engineer",
]
_DOES = [
    "bought a house near the river",
    "is late for the meeting",
    "cooked soup for dinner",
    "plays the violin on Sundays",
    "forgot the password again",
    "reads the newspaper at breakfast",
    "complained about the weather",
    "missed the last train home",
]
_KO_PEOPLE = [
    "우리 형이",
    "선생님이",
    "이웃집 아저씨가",
    "의사가",
    "할머니께서",
    "관광객이",
    "기술자가",
    "친구가",
]
_KO_DOES = [
    "회의에 늦었다",
    "저녁으로 국을 끓였다",
    "일요일마다 바이올린을 켠다",
    "비밀번호를 잊어버렸다",
    "아침에 신문을 읽는다",
    "날씨를 불평했다",
    "막차를 놓쳤다",
    "강가에 집을 샀다",
]
_THINGS = [
    "dog",
    "castle",
    "bicycle",
    "mountain",
    "teapot",
    "spaceship",
    "violin",
    "forest",
    "sandwich",
    "dragon",
    "lighthouse",
    "horse",
]
_KO_THINGS = [
    "강아지",
    "성",
    "자전거",
    "산봉우리",
    "찻주전자",
    "우주선",
    "바이올린",
    "숲속",
    "샌드위치",
    "용",
    "등대",
    "말 한 마리",
]
_WHERE = [
    "in the rain",
    "at sunset",
    "on the beach",
    "under the moon",
    "in a kitchen",
    "beside a river",
]
_FACTS = [
    "What is the capital of {}?",
    "Who was the president of {} in 1990?",
    "How many people live in {}?",
    "When did {} join the union?",
    "Which language is spoken in {}?",
]
_KO_FACTS = [
    "{}의 수도는 어디인가요?",
    "{}의 인구는 몇 명이에요?",
    "{}의 대통령은 누구야?",
    "{}에서는 어떤 언어를 쓰나요?",
    "{}의 역사를 알려줘",
]
_COUNTRIES = ["France", "Brazil", "Kenya", "Norway", "Japan", "Canada", "Egypt", "Peru"]
_KO_COUNTRIES = ["프랑스", "브라질", "케냐", "노르웨이", "일본", "캐나다", "이집트", "페루"]
_OTHER = [
    "Le chat dort sur la table",
    "Je voudrais un café s'il vous plaît",
    "Der Hund läuft durch den Garten",
    "Wo ist der Bahnhof?",
    "El niño come una manzana",
    "¿Dónde está la biblioteca?",
    "La casa è molto grande",
    "Vorrei prenotare un tavolo",
    "今日は天気がいいですね",
    "駅はどこですか",
    "我想喝一杯咖啡",
    "他们住在北京",
    "Где находится вокзал?",
    "Я люблю читать книги",
    "Jag vill ha en kopp kaffe",
    "Gdzie jest dworzec?",
    "Onde fica a praia?",
    "Kahve içmek istiyorum",
]
_CODE = [
    "for i in range({n}): print(i)",
    "SELECT name FROM users WHERE id = {n}",
    "https://example.org/page?id={n}",
    "x^2 + {n}x - 7 = 0",
    "git commit -m 'fix #{n}'",
    "<div class='row{n}'></div>",
    "npm install left-pad@{n}",
    "int main() {{ return {n}; }}",
]


def chatter(rng: Rng) -> str:
    if rng.random() < 0.5:
        return f"{_one(rng, _PEOPLE).capitalize()} {_one(rng, _DOES)}."
    return f"{_one(rng, _KO_PEOPLE)} {_one(rng, _KO_DOES)}."


def facts(rng: Rng) -> str:
    if rng.random() < 0.5:
        return _one(rng, _FACTS).format(_one(rng, _COUNTRIES))
    return _one(rng, _KO_FACTS).format(_one(rng, _KO_COUNTRIES))


def other_things(rng: Rng) -> str:
    """Requests to draw what is not in the world."""
    if rng.random() < 0.5:
        return f"{_one(rng, ['Draw', 'Please draw', 'Show me', 'I want'])} a {_one(rng, _THINGS)} {_one(rng, _WHERE)}"
    return f"{_one(rng, _KO_THINGS)} {_one(rng, ['그려줘', '보여줘', '그려 주세요'])}"


def other_languages(rng: Rng) -> str:
    return (
        f"{_one(rng, _OTHER)} {rng.integers(10, 99)}" if rng.random() < 0.2 else _one(rng, _OTHER)
    )


def code(rng: Rng) -> str:
    return _one(rng, _CODE).format(n=int(rng.integers(100, 9999)))


def mash(rng: Rng) -> str:
    """Letters at random."""
    if rng.random() < 0.3:
        return " ".join(
            "".join(chr(int(rng.integers(0xAC00, 0xD7A3))) for _ in range(int(rng.integers(3, 7))))
            for _ in range(3)
        )
    return " ".join(
        "".join(_one(rng, list(string.ascii_lowercase)) for _ in range(int(rng.integers(4, 10))))
        for _ in range(4)
    )


def salad(rng: Rng) -> str:
    """The words of a sentence of ours in any order."""
    scene, language = (
        sample_scene(int(rng.integers(900_000, 999_999)), "seen"),
        LANGUAGES[int(rng.integers(2))],
    )
    words = caption(scene, language, rng).rstrip(".").split()
    return " ".join(words[int(k)] for k in rng.permutation(len(words)))


def heap(rng: Rng) -> str:
    """Four to six things, of which three fit."""
    language = LANGUAGES[int(rng.integers(2))]
    scenes = [
        sample_scene(int(rng.integers(900_000, 999_999)), "seen", objects=1)
        for _ in range(rng.integers(4, 7))
    ]
    return " ".join(caption(scene, language, rng) for scene in scenes)


def colors(rng: Rng) -> str:
    """Colours and sizes, and nothing that has them."""
    language = LANGUAGES[int(rng.integers(2))]
    known = [*COLOR[language].values(), *SIZE[language].values()]
    return " ".join(_one(rng, known) for _ in range(int(rng.integers(3, 8))))


SENSELESS: dict[str, Callable[[Rng], str]] = {
    "word salad": salad,
    "too many things": heap,
    "no thing": colors,
}
"""of known words alone"""
TEST_SENTENCES: dict[str, Callable[[Rng], str]] = {
    "chatter": chatter,
    "facts": facts,
    "other things": other_things,
    "other languages": other_languages,
    "code": code,
    "mash": mash,
}


@functools.cache
def _photograph(name: str) -> np.ndarray:
    """One of scikit-image's own: uint8 [H, W, 3]. Those of a network are not asked for."""
    from skimage import data

    picture = np.asarray(getattr(data, name)())
    return np.stack([picture] * 3, -1) if picture.ndim == 2 else picture[..., :3]


def photograph(rng: Rng) -> np.ndarray:
    """A crop of one of scikit-image's photographs."""
    return _crop(
        _photograph(
            _one(rng, ["astronaut", "camera", "chelsea", "coffee", "coins", "moon", "rocket"])
        ),
        rng,
    )


def science(rng: Rng) -> np.ndarray:
    """A crop of a photograph through a microscope or a telescope, or of an eye."""
    return _crop(
        _photograph(
            _one(
                rng,
                ["cell", "hubble_deep_field", "immunohistochemistry", "microaneurysms", "retina"],
            )
        ),
        rng,
    )


def surface(rng: Rng) -> np.ndarray:
    """A crop of a photograph of a wall, a lawn, a path or a page of print."""
    return _crop(_photograph(_one(rng, ["brick", "grass", "gravel", "page"])), rng)


def gradient(rng: Rng) -> np.ndarray:
    """A smooth change from one colour to another, straight or round, with or without one soft
    spot."""
    y, x = np.mgrid[0:128, 0:128] / 127
    turn = rng.uniform(0, 2 * np.pi)
    ramp = (
        np.hypot(y - 0.5, x - 0.5)
        if rng.random() < 0.4
        else (np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5) + 0.5)
    )
    one, other, third = (rng.integers(0, 256, 3) for _ in range(3))
    picture = one + (other - one) * np.clip(ramp, 0, 1)[..., None]
    if rng.random() < 0.6:
        b, a = rng.uniform(0.2, 0.8, 2)
        spot = np.exp(-((y - b) ** 2 + (x - a) ** 2) / (2 * rng.uniform(0.05, 0.2) ** 2))[..., None]
        picture = picture + (third - picture) * spot
    return picture.astype(np.uint8)


def letters(rng: Rng) -> np.ndarray:
    """One to three large letters on a plain ground."""
    picture = Image.new("RGB", (128, 128), _color(rng))
    font = ImageFont.load_default(int(rng.integers(40, 90)))
    text = "".join(
        _one(rng, list(string.ascii_uppercase + string.digits))
        for _ in range(int(rng.integers(1, 4)))
    )
    ImageDraw.Draw(picture).text((64, 64), text, fill=_color(rng), font=font, anchor="mm")
    return np.asarray(picture)


def _crop(picture: np.ndarray, rng: Rng) -> np.ndarray:
    side = int(rng.integers(min(picture.shape[:2]) // 2, min(picture.shape[:2]) + 1))
    y, x = (int(rng.integers(0, n - side + 1)) for n in picture.shape[:2])
    return np.asarray(
        Image.fromarray(picture[y : y + side, x : x + side]).resize(
            (128, 128), Image.Resampling.BOX
        )
    )


def _color(rng: Rng) -> tuple[int, int, int]:
    r, g, b = rng.integers(0, 256, 3)
    return int(r), int(g), int(b)


def noise(rng: Rng) -> np.ndarray:
    kind = rng.integers(3)
    if kind == 0:
        return rng.integers(0, 256, (128, 128, 3)).astype(np.uint8)
    if kind == 1:
        return rng.normal(128, 60, (128, 128, 3)).clip(0, 255).astype(np.uint8)
    coarse = rng.integers(0, 256, (int(rng.integers(8, 40)),) * 2 + (3,)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((128, 128), Image.Resampling.NEAREST))


def screenshot(rng: Rng) -> np.ndarray:
    """Lines of text, dark on light or light on dark."""
    dark = rng.random() < 0.4
    picture = Image.new("RGB", (256, 256), (20, 20, 30) if dark else (250, 250, 250))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=int(rng.integers(12, 22)))
    y = 6
    while y < 240:
        line = " ".join(
            "".join(_one(rng, list(string.ascii_letters)) for _ in range(int(rng.integers(2, 9))))
            for _ in range(8)
        )
        draw.text((8, y), line, fill=(220, 220, 220) if dark else (15, 15, 15), font=font)
        y += int(rng.integers(16, 26))
    return np.asarray(picture.resize((128, 128), Image.Resampling.BOX))


def cartoon(rng: Rng) -> np.ndarray:
    """A face, a house or a tree in flat colours, as an emoji or a child's drawing."""
    picture = Image.new(
        "RGB", (128, 128), _one_of([(255, 255, 255), (240, 248, 255), (255, 250, 230)], rng)
    )
    draw = ImageDraw.Draw(picture)
    kind = int(rng.integers(3))
    x, y, size = int(rng.integers(50, 78)), int(rng.integers(50, 78)), int(rng.integers(30, 48))
    if kind == 0:
        draw.ellipse(
            (x - size, y - size, x + size, y + size), fill=_color(rng), outline=(0, 0, 0), width=2
        )
        for side in (-1, 1):
            draw.ellipse(
                (x + side * size // 2 - 5, y - 12, x + side * size // 2 + 5, y - 2), fill=(0, 0, 0)
            )
        draw.arc(
            (x - size // 2, y - 4, x + size // 2, y + size // 2), 10, 170, fill=(0, 0, 0), width=3
        )
    elif kind == 1:
        draw.rectangle(
            (x - size, y - 8, x + size, y + size), fill=_color(rng), outline=(0, 0, 0), width=2
        )
        draw.polygon(
            [(x - size - 6, y - 8), (x, y - size), (x + size + 6, y - 8)],
            fill=_color(rng),
            outline=(0, 0, 0),
        )
        draw.rectangle((x - 8, y + size - 26, x + 8, y + size), fill=_color(rng))
        draw.rectangle((x + 14, y + 2, x + 28, y + 16), fill=(180, 220, 255), outline=(0, 0, 0))
    else:
        draw.rectangle((x - 6, y, x + 6, y + size), fill=(110, 70, 30))
        for _ in range(6):
            a, b = x + int(rng.integers(-24, 24)), y + int(rng.integers(-36, 6))
            draw.ellipse(
                (a - 16, b - 16, a + 16, b + 16),
                fill=(30, int(rng.integers(110, 190)), 40),
                outline=(10, 60, 10),
            )
        draw.rectangle((0, y + size, 128, 128), fill=(120, 200, 90))
    return np.asarray(picture)


def _one_of(among: list[tuple[int, int, int]], rng: Rng) -> tuple[int, int, int]:
    return among[int(rng.integers(len(among)))]


def crowd(rng: Rng) -> np.ndarray:
    """Many flat shapes on top of one another."""
    picture = Image.new("RGB", (128, 128), _color(rng))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(12, 30))):
        a, b, c, d = (int(v) for v in rng.integers(-10, 138, 4))
        box = (min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1)
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=_color(rng))
    return np.asarray(picture)


TEST_PICTURES: dict[str, Callable[[Rng], np.ndarray]] = {
    "photographs": photograph,
    "noise": noise,
    "screenshots": screenshot,
    "cartoons": cartoon,
    "crowds": crowd,
}
FRESH_PICTURES: dict[str, Callable[[Rng], np.ndarray]] = {
    "science": science,
    "surfaces": surface,
    "gradients": gradient,
    "letters": letters,
}
"""written after the measures of familiarity were chosen; how many of ours may be below their least
was changed twice after that, at which all of these stayed flagged"""


def chart(rng: Rng) -> np.ndarray:
    """Bars and a line."""
    picture = Image.new("RGB", (128, 128), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    heights = rng.integers(10, 100, int(rng.integers(4, 9)))
    width = 110 // len(heights)
    color = _color(rng)
    for k, h in enumerate(heights):
        draw.rectangle((10 + k * width, 118 - int(h), 6 + (k + 1) * width, 118), fill=color)
    draw.line((8, 4, 8, 120, 124, 120), fill=(0, 0, 0), width=1)
    return np.asarray(picture)


def clouds(rng: Rng) -> np.ndarray:
    """Fractal noise in two colours."""
    total = sum(
        np.asarray(
            Image.fromarray(rng.random((2**k, 2**k)).astype(np.float32)).resize(
                (128, 128), Image.Resampling.BICUBIC
            )
        )
        / 2**k
        for k in range(1, 7)
    )
    low, high = total.min(), total.max()
    t = ((total - low) / (high - low))[..., None]
    return (t * np.array(_color(rng)) + (1 - t) * np.array(_color(rng))).astype(np.uint8)


def stripes(rng: Rng) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 25)
    y, x = np.mgrid[:128, :128]
    on = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period) > 0
    return np.where(on[..., None], _color(rng), _color(rng)).astype(np.uint8)


CALIBRATION_PICTURES: dict[str, Callable[[Rng], np.ndarray]] = {
    "charts": chart,
    "clouds": clouds,
    "stripes": stripes,
}


def _voxels(filled: np.ndarray, rng: Rng) -> np.ndarray:
    out = np.zeros((64, 64, 64, 4), np.uint8)
    out[filled] = (*_color(rng), 255)
    return out


def furniture(rng: Rng) -> np.ndarray:
    """A chair or a table of boards and legs, as [x, y, z] with z up."""
    filled = np.zeros((64, 64, 64), bool)
    w, d, h = (int(v) for v in rng.integers(20, 44, 3))
    x, y, z, t = 32 - w // 2, 32 - d // 2, 8, int(rng.integers(2, 4))
    for a in (x, x + w - t):
        for b in (y, y + d - t):
            filled[a : a + t, b : b + t, z : z + h] = True
    filled[x : x + w, y : y + d, z + h : z + h + t] = True
    if rng.random() < 0.6:
        filled[x : x + w, y + d - t : y + d, z + h : min(z + h + 22, 63)] = True
    return _voxels(filled, rng)


def terrain(rng: Rng) -> np.ndarray:
    """A landscape of hills."""
    from scipy.ndimage import gaussian_filter

    height = gaussian_filter(rng.random((64, 64)), 4)
    height = (height - height.min()) / (np.ptp(height) + 1e-9) * 34 + 4
    return _voxels(np.arange(64)[None, None] < height[..., None], rng)


def scatter(rng: Rng) -> np.ndarray:
    """Voxels at random."""
    from scipy.ndimage import gaussian_filter

    return _voxels(gaussian_filter(rng.random((64, 64, 64)), 1.2) > 0.53, rng)


def wires(rng: Rng) -> np.ndarray:
    """A tube along a random closed curve."""
    t = np.linspace(0, 2 * np.pi, 700)
    curve = np.stack(
        [
            sum(rng.normal() / k * np.sin(k * t + rng.uniform(0, 6)) for k in range(1, 5))
            for _ in range(3)
        ],
        -1,
    )
    curve = ((curve - curve.min(0)) / np.ptp(curve, 0) * 46 + 8).astype(int)
    filled = np.zeros((64, 64, 64), bool)
    for dx in range(-1, 2):
        for dy in range(-1, 2):
            for dz in range(-1, 2):
                filled[tuple((curve + np.array((dx, dy, dz))).T)] = True
    return _voxels(filled, rng)


TEST_SHAPES: dict[str, Callable[[Rng], np.ndarray]] = {
    "furniture": furniture,
    "terrain": terrain,
    "scattered voxels": scatter,
}
CALIBRATION_SHAPES: dict[str, Callable[[Rng], np.ndarray]] = {"wires": wires}
