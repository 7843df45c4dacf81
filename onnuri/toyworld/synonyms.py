"""This module lists what people call the world's solids, colours, sizes, places and motions, in
Korean and English. It knows no sentences.

The first word of a list is the world's own. A list's words after `HELD` never occur in training:
with them tests measure what a model makes of a name that it has not met, and
`onnuri.toyworld.wordings` says them only when it is asked to. Rare words were held out rather than
drawn by chance, so that what is lost to every user is little.
"""

from __future__ import annotations

import dataclasses

from onnuri.modality import Language

HELD = "|"
"""stands before the words of a list that training never says"""


def _split(words: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the words before and after the bar in a list of words separated by commas."""
    known, _, held = words.partition(HELD)
    return tuple(w.strip() for w in known.split(",") if w.strip()), tuple(
        w.strip() for w in held.split(",") if w.strip()
    )


_SOLIDS: dict[Language, dict[str, str]] = {
    "en": {
        "sphere": "sphere, ball, orb, globe, round ball | bead",
        "cube": "cube, box, block, dice, square box | crate",
        "cylinder": "cylinder, can, tube, drum, barrel, column | canister",
        "cone": "cone, funnel, traffic cone, party hat | spike",
        "torus": "torus, donut, doughnut, ring, hoop | bagel",
        "star": "star, five-pointed star, star shape, starfish | pentagram",
        "cross": "cross, plus, plus sign, plus shape, cross shape | crucifix",
        "capsule": "capsule, pill, medicine capsule | lozenge",
        "octahedron": "octahedron, diamond, gem, double pyramid, eight-sided solid | jewel",
        "arch": "arch, archway, gate, arched gate, bridge | doorway",
    },
    "ko": {
        "sphere": "구, 공, 구슬, 볼, 동그란 공 | 구체",
        "cube": "정육면체, 상자, 큐브, 네모 상자, 주사위, 박스 | 육면체",
        "cylinder": "원기둥, 원통, 기둥, 캔, 깡통 | 실린더",
        "cone": "원뿔, 고깔, 콘, 고깔모자 | 뿔",
        "torus": "도넛, 고리, 링, 도너츠, 둥근 고리 | 원환체",
        "star": "별, 별 모양, 스타, 별 도형 | 오각별",
        "cross": "십자가, 십자, 플러스, 더하기 모양, 십자 모양 | 크로스",
        "capsule": "캡슐, 알약, 캡슐 모양, 알약 모양 | 정제",
        "octahedron": "팔면체, 다이아몬드, 정팔면체, 보석, 마름모 | 수정",
        "arch": "아치, 아치문, 문, 아치 모양, 대문 | 홍예",
    },
}
_COLORS: dict[Language, dict[str, str]] = {
    "en": {
        "red": "red, crimson, scarlet, ruby, bright red, red-colored | vermilion",
        "orange": "orange, tangerine, bright orange, orange-colored | apricot",
        "yellow": "yellow, golden, lemon, bright yellow, gold | canary",
        "green": "green, emerald, dark green, lime, green-colored | jade",
        "cyan": "cyan, turquoise, teal, aqua, sky blue, sky-blue, light blue | aquamarine",
        "blue": "blue, navy, dark blue, deep blue, royal blue, blue-colored | sapphire",
        "purple": "purple, violet, lilac, indigo, lavender | plum",
        "pink": "pink, rose, magenta, bright pink, hot pink | fuchsia",
        "white": "white, snow-white, ivory, pure white, snowy | chalky",
        "black": "black, jet-black, pitch-black, ebony, dark | inky",
    },
    "ko": {
        "red": "빨간, 빨강, 빨간색, 붉은, 붉은색, 레드, 새빨간 | 적색",
        "orange": "주황, 주황색, 오렌지색, 주황빛, 오렌지 | 귤색",
        "yellow": "노란, 노랑, 노란색, 샛노란, 옐로, 금색 | 황색",
        "green": "초록, 초록색, 녹색, 그린, 초록빛, 진초록 | 풀색",
        "cyan": "하늘색, 하늘빛, 청록색, 시안, 옥색, 연한 파란색 | 민트색",
        "blue": "파란, 파랑, 파란색, 푸른, 블루, 남색, 새파란 | 청색",
        "purple": "보라, 보라색, 보랏빛, 퍼플, 자주색 | 자색",
        "pink": "분홍, 분홍색, 핑크, 핑크색, 분홍빛 | 연분홍",
        "white": "하얀, 흰, 하얀색, 흰색, 화이트, 새하얀, 하양 | 백색",
        "black": "검은, 까만, 검은색, 검정, 검정색, 블랙, 새까만 | 흑색",
    },
}
_SIZES: dict[Language, dict[str, str]] = {
    "en": {
        "small": "small, little, tiny, mini, small-sized | petite",
        "medium": "medium, medium-sized, mid-sized, middle-sized, average-sized, normal-sized "
        "| moderate",
        "large": "large, big, huge, giant, enormous, great big | massive",
    },
    "ko": {
        "small": "작은, 조그만, 자그마한, 쪼그만, 작은 크기의 | 아담한",
        "medium": "중간 크기, 중간 크기의, 보통 크기의, 중간, 중간 정도 크기의 | 중형",
        "large": "큰, 커다란, 큼직한, 거대한, 커다랗고 | 큼지막한",
    },
}
_PLACES: dict[Language, dict[str, str]] = {
    "en": {
        "left_of": "to the left of, left of, to left of, on the left of, on the left side of, "
        "at the left of | leftward of",
        "right_of": "to the right of, right of, to right of, on the right of, "
        "on the right side of, at the right of | rightward of",
        "above": "above, over, on top of, higher than, up above | atop",
        "below": "below, under, beneath, underneath, lower than, down below | down from",
    },
    "ko": {
        "left_of": "왼쪽, 왼편, 좌측, 왼쪽 옆, 왼쪽 편 | 좌편",
        "right_of": "오른쪽, 오른편, 우측, 오른쪽 옆, 오른쪽 편 | 우편",
        "above": "위, 위쪽, 위편, 바로 위, 윗쪽 | 윗부분",
        "below": "아래, 아래쪽, 밑, 밑쪽, 바로 아래 | 아랫부분",
    },
}


@dataclasses.dataclass(frozen=True)
class Names:
    """A Names holds what one thing is called: `known` in training, the world's own word first;
    `held` only in tests."""

    known: tuple[str, ...]
    held: tuple[str, ...]


def _names(table: dict[Language, dict[str, str]]) -> dict[Language, dict[str, Names]]:
    """Return a table of word lists with every list split into `Names`."""
    return {
        language: {key: Names(*_split(words)) for key, words in rows.items()}
        for language, rows in table.items()
    }


SOLIDS, COLORS, SIZES, PLACES = (_names(t) for t in (_SOLIDS, _COLORS, _SIZES, _PLACES))


@dataclasses.dataclass(frozen=True)
class Motion:
    """A Motion holds a Korean verb in the forms that people use: 간다, 갑니다, 가요, 가고, 가는, 감."""

    plain: str
    formal: str
    casual: str
    linking: str
    modifying: str
    noun: str


_VERBS = {
    "가다": "간다 갑니다 가요 가고 가는 감",
    "움직이다": "움직인다 움직입니다 움직여요 움직이고 움직이는 움직임",
    "이동하다": "이동한다 이동합니다 이동해요 이동하고 이동하는 이동함",
    "미끄러지다": "미끄러진다 미끄러집니다 미끄러져요 미끄러지고 미끄러지는 미끄러짐",
    "올라가다": "올라간다 올라갑니다 올라가요 올라가고 올라가는 올라감",
    "떠오르다": "떠오른다 떠오릅니다 떠올라요 떠오르고 떠오르는 떠오름",
    "상승하다": "상승한다 상승합니다 상승해요 상승하고 상승하는 상승함",
    "내려가다": "내려간다 내려갑니다 내려가요 내려가고 내려가는 내려감",
    "가라앉다": "가라앉는다 가라앉습니다 가라앉아요 가라앉고 가라앉는 가라앉음",
    "떨어지다": "떨어진다 떨어집니다 떨어져요 떨어지고 떨어지는 떨어짐",
    "하강하다": "하강한다 하강합니다 하강해요 하강하고 하강하는 하강함",
    "돌다": "돈다 돕니다 돌아요 돌고 도는 돎",
    "회전하다": "회전한다 회전합니다 회전해요 회전하고 회전하는 회전함",
    "그리다": "그린다 그립니다 그려요 그리고 그리는 그림",
    "맴돌다": "맴돈다 맴돕니다 맴돌아요 맴돌고 맴도는 맴돎",
    "튀다": "튄다 튑니다 튀어요 튀고 튀는 튐",
    "튀어오르다": "튀어오른다 튀어오릅니다 튀어올라요 튀어오르고 튀어오르는 튀어오름",
    "튕기다": "튕긴다 튕깁니다 튕겨요 튕기고 튕기는 튕김",
    "뛰다": "뛴다 뜁니다 뛰어요 뛰고 뛰는 뜀",
    "커지다": "커진다 커집니다 커져요 커지고 커지는 커짐",
    "자라다": "자란다 자랍니다 자라요 자라고 자라는 자람",
    "부풀다": "부푼다 부풉니다 부풀어요 부풀고 부푸는 부풂",
    "작아지다": "작아진다 작아집니다 작아져요 작아지고 작아지는 작아짐",
    "줄어들다": "줄어든다 줄어듭니다 줄어들어요 줄어들고 줄어드는 줄어듦",
    "쪼그라들다": "쪼그라든다 쪼그라듭니다 쪼그라들어요 쪼그라들고 쪼그라드는 쪼그라듦",
    "있다": "있다 있습니다 있어요 있고 있는 있음",
    "보이다": "보인다 보입니다 보여요 보이고 보이는 보임",
    "놓이다": "놓여있다 놓여있습니다 놓여있어요 놓여있고 놓여있는 놓여있음",
}
_MOVES: dict[str, str] = {
    "still": "있다, 가만히 있다, 멈춰 있다, 놓이다, 보이다 | 우두커니 있다",
    "left": "왼쪽으로 가다, 왼쪽으로 움직이다, 왼쪽으로 이동하다, 왼편으로 가다, 좌측으로 움직이다 | 왼쪽으로 미끄러지다",
    "right": "오른쪽으로 가다, 오른쪽으로 움직이다, 오른쪽으로 이동하다, 오른편으로 가다, 우측으로 움직이다"
    " | 오른쪽으로 미끄러지다",
    "rise": "올라가다, 위로 올라가다, 위로 움직이다, 위로 이동하다, 떠오르다 | 상승하다",
    "sink": "내려가다, 아래로 내려가다, 아래로 움직이다, 가라앉다, 떨어지다 | 하강하다",
    "circle": "돌다, 빙글빙글 돌다, 회전하다, 원을 그리다, 빙빙 돌다 | 맴돌다",
    "bounce": "튀다, 통통 튀다, 튀어오르다, 튕기다, 위아래로 튀다 | 콩콩 뛰다",
    "grow": "커지다, 점점 커지다, 자라다, 점점 자라다, 크게 커지다 | 부풀다",
    "shrink": "작아지다, 점점 작아지다, 줄어들다, 점점 줄어들다, 작게 줄어들다 | 쪼그라들다",
}


def _motion(phrase: str) -> Motion:
    """Return the forms of a Korean phrase whose last word is a verb of the table."""
    *before, verb = phrase.split()
    return Motion(*(" ".join([*before, form]) for form in _VERBS[verb].split()))


KO_MOTIONS: dict[str, tuple[tuple[Motion, ...], tuple[Motion, ...]]] = {}
"""known and held-out verbs of every motion"""
for _key, _phrases in _MOVES.items():
    _known, _held = _split(_phrases)
    KO_MOTIONS[_key] = tuple(map(_motion, _known)), tuple(map(_motion, _held))

_EN_MOVES: dict[str, str] = {
    "still": "is/standing still, stands still/standing still, rests/resting, sits/sitting, "
    "stays put/staying put "
    "| lingers/lingering",
    "left": "moves left/moving left, goes left/going left, moves to the left/moving to the left, "
    "slides left/sliding left, "
    "drifts left/drifting left, travels left/traveling left | heads leftward/heading leftward",
    "right": "moves right/moving right, goes right/going right, "
    "moves to the right/moving to the right, "
    "slides right/sliding right, "
    "drifts right/drifting right, travels right/traveling right "
    "| heads rightward/heading rightward",
    "rise": "rises/rising, goes up/going up, moves up/moving up, floats up/floating up, "
    "moves upward/moving upward, "
    "climbs/climbing | ascends/ascending",
    "sink": "sinks/sinking, goes down/going down, moves down/moving down, falls/falling, "
    "moves downward/moving downward, "
    "drops/dropping | descends/descending",
    "circle": "circles/circling, spins/spinning, goes around/going around, "
    "moves in a circle/moving in a circle, "
    "turns in circles/turning in circles, goes round/going round | orbits/orbiting",
    "bounce": "bounces/bouncing, hops/hopping, jumps/jumping, "
    "bounces up and down/bouncing up and down, "
    "jumps up and down/jumping up and down | bobs/bobbing",
    "grow": "grows/growing, gets bigger/getting bigger, becomes larger/becoming larger, "
    "expands/expanding, "
    "gets larger/getting larger | swells/swelling",
    "shrink": "shrinks/shrinking, gets smaller/getting smaller, becomes smaller/becoming smaller, "
    "gets tinier/getting tinier, grows smaller/growing smaller | dwindles/dwindling",
}
EN_MOTIONS: dict[str, tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]] = {}
"""known and held-out (present, participle) of every motion"""
for _key, _phrases in _EN_MOVES.items():
    _pairs = [tuple(tuple(w.split("/")) for w in part) for part in _split(_phrases)]
    EN_MOTIONS[_key] = _pairs[0], _pairs[1]  # type: ignore[assignment]


def held_out_synonyms(language: Language) -> set[str]:
    """Return every name of a language that training never says; of Korean verbs the plain form."""
    names_held = {
        word
        for table in (SOLIDS, COLORS, SIZES, PLACES)
        for names in table[language].values()
        for word in names.held
    }
    if language == "ko":
        return names_held | {verb.plain for _, held in KO_MOTIONS.values() for verb in held}
    return names_held | {pair[0] for _, held in EN_MOTIONS.values() for pair in held}
