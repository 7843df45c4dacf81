"""This module lists the words of the world in Korean and English, and joins Korean particles to
them. It knows no grammar."""

from __future__ import annotations

import dataclasses

from onnuri.data.korean import particle
from onnuri.modality import Language
from onnuri.toyworld.scene import SOLIDS

SOLID: dict[Language, dict[str, str]] = {
    "ko": {
        "sphere": "구",
        "cube": "정육면체",
        "cylinder": "원기둥",
        "cone": "원뿔",
        "torus": "도넛",
        "star": "별",
        "cross": "십자가",
        "capsule": "캡슐",
        "octahedron": "팔면체",
        "arch": "아치",
    },
    "en": {solid: solid for solid in SOLIDS},
}
COLOR: dict[Language, dict[str, str]] = {
    "ko": {
        "red": "빨간",
        "orange": "주황",
        "yellow": "노란",
        "green": "초록",
        "cyan": "하늘색",
        "blue": "파란",
        "purple": "보라",
        "pink": "분홍",
        "white": "하얀",
        "black": "검은",
    },
    "en": {
        c: c
        for c in (
            "red",
            "orange",
            "yellow",
            "green",
            "cyan",
            "blue",
            "purple",
            "pink",
            "white",
            "black",
        )
    },
}
COLOR_NOUN = {
    "red": "빨간색",
    "orange": "주황색",
    "yellow": "노란색",
    "green": "초록색",
    "cyan": "하늘색",
    "blue": "파란색",
    "purple": "보라색",
    "pink": "분홍색",
    "white": "하얀색",
    "black": "검은색",
}
SIZE: dict[Language, dict[str, str]] = {
    "ko": {"small": "작은", "medium": "중간 크기", "large": "큰"},
    "en": {"small": "small", "medium": "medium", "large": "large"},
}
PLACE: dict[Language, dict[str, str]] = {
    "ko": {"left_of": "왼쪽", "right_of": "오른쪽", "above": "위", "below": "아래"},
    "en": {
        "left_of": "to the left of",
        "right_of": "to the right of",
        "above": "above",
        "below": "below",
    },
}


@dataclasses.dataclass(frozen=True)
class Verb:
    """A Verb holds the forms of one motion: in Korean plain, formal, connective and adnominal; in
    English present, participle and plain form."""

    plain: str
    formal: str
    linking: str
    modifying: str
    present: str
    participle: str
    bare: str


VERB = {
    "still": Verb("있다", "있습니다", "있고", "멈춰 있는", "is", "standing still", "stand still"),
    "left": Verb(
        "왼쪽으로 간다",
        "왼쪽으로 갑니다",
        "왼쪽으로 가고",
        "왼쪽으로 가는",
        "moves left",
        "moving left",
        "move left",
    ),
    "right": Verb(
        "오른쪽으로 간다",
        "오른쪽으로 갑니다",
        "오른쪽으로 가고",
        "오른쪽으로 가는",
        "moves right",
        "moving right",
        "move right",
    ),
    "rise": Verb("올라간다", "올라갑니다", "올라가고", "올라가는", "rises", "rising", "rise"),
    "sink": Verb("내려간다", "내려갑니다", "내려가고", "내려가는", "sinks", "sinking", "sink"),
    "circle": Verb("돈다", "돕니다", "돌고", "도는", "circles", "circling", "circle"),
    "bounce": Verb("튄다", "튑니다", "튀고", "튀는", "bounces", "bouncing", "bounce"),
    "grow": Verb("커진다", "커집니다", "커지고", "커지는", "grows", "growing", "grow"),
    "shrink": Verb(
        "작아진다", "작아집니다", "작아지고", "작아지는", "shrinks", "shrinking", "shrink"
    ),
}
RESULT = {
    "still": "멈추게",
    "left": "왼쪽으로 가게",
    "right": "오른쪽으로 가게",
    "rise": "올라가게",
    "sink": "내려가게",
    "circle": "돌게",
    "bounce": "튀게",
    "grow": "커지게",
    "shrink": "작아지게",
}
"""Korean adverbial forms of motions in instructions, meaning that a thing is made to move so"""

SYNONYMS: dict[str, str] = {
    "공": "구",
    "상자": "정육면체",
    "큐브": "정육면체",
    "고리": "도넛",
    "원환체": "도넛",
    "빨강": "빨간",
    "주황색": "주황",
    "주황빛": "주황",
    "초록색": "초록",
    "녹색": "초록",
    "보라색": "보라",
    "분홍색": "분홍",
    "흰": "하얀",
    "까만": "검은",
    "노랑": "노란",
    "파랑": "파란",
    "ball": "sphere",
    "box": "cube",
    "donut": "torus",
    "doughnut": "torus",
    "ring": "torus",
    "big": "large",
    "little": "small",
    "tiny": "small",
    "huge": "large",
    "under": "below",
    "over": "above",
    "spins": "circles",
    "spinning": "circling",
    "violet": "purple",
    "diamond": "octahedron",
}
"""words that the grammar understands, by the word that it uses itself for them"""


def josa(word: str, pair: str) -> str:
    """Return a Korean word with the particle that its last letter asks for; `pair` is "이/가", "은/는",
    "을/를", "와/과" or "으로/로"."""
    return word + particle(word, pair)
