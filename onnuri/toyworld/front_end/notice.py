"""This module writes notices: sentences that tell the user which part of the input the model does
not know. The model answers all the same.

Four signs are read: words that are in no list of known words, a picture or shape that its own codec
does not reconstruct well (nothing is learned beside the codecs), a picture in which no object is
found, and an answer that was improbable to the model itself. Thresholds are in `notice.json`, with
how they were measured; `benchmarks/unknown.py --calibrate` writes them, on scenes and foreign
pictures of kinds that no test uses.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnuri.codecs.spec import SlotLayout
from onnuri.modality import Language, Modality
from onnuri.model.front_end import Notice, Reading, Seen
from onnuri.toyworld.front_end.questions import ends_as_question, is_greeting, is_question
from onnuri.toyworld.front_end.spelling import Spelling

DETAILS = 4.0
"""standard deviation in pixels of the blur; what a picture shows beyond its blur are its details"""
_HERE = Path(__file__).parent
_WHAT: dict[Language, dict[Modality, str]] = {
    "ko": {"image": "이 그림", "video": "이 영상", "shape": "이 3D 모델"},
    "en": {"image": "this picture", "video": "this video", "shape": "this 3D model"},
}
CAN_DO: dict[Language, str] = {
    "ko": "저는 작은 세계만 압니다: 색과 크기가 있는 입체 하나에서 셋까지, 그 위치와 움직임입니다. "
    "그것을 그리고, 말하고, 움직여 보이고, 3D로 만들고, 보여 주시면 설명할 수 있습니다. "
    "이렇게 말해 보세요: 파란 상자 왼쪽에 빨간 공을 그려줘",
    "en": "I only know a small world: one to three solids with a color and a size, "
    "where they are and how they move. "
    "I can draw, say, animate and model them, and describe what you show me. "
    "Try: draw a red ball to the left of a blue box",
}
"""the answer to a greeting, or to a question about anything but the world"""


@functools.cache
def thresholds() -> dict[str, Any]:
    """Return by modality and measure of `fidelity` the least familiar value and the median of the
    toy world's own items, as `benchmarks/unknown.py --calibrate` measured them."""
    values: dict[str, Any] = json.loads((_HERE / "notice.json").read_text(encoding="utf-8"))
    return values


@functools.cache
def default_words() -> Spelling:
    """Return the world's list of words, for models whose text codec has no list of its own."""
    words = Spelling.load(_HERE)
    assert words is not None, "onnuri/toyworld/front_end/words.json is missing"
    return words


def fidelity(modality: Modality, item: Any, codes: np.ndarray, codec: Any) -> dict[str, float]:
    """Return how well a codec reconstructs an item from its codes: for a picture PSNR in dB and the
    correlation of details (Pearson's, over pixels and channels, each channel less its blur), for a
    shape IoU.

    PSNR alone is high wherever little is to be seen, as in a dark photograph; details are where the
    edges of solids are, whatever the light. Of a video, the first frame counts: the rest is coded
    as its objects' motion.
    """
    if modality == "shape":
        decoded = codec.decode(codes)[..., 3] > 127
        solid = item[..., 3] > 127
        both, either = int((decoded & solid).sum()), int((decoded | solid).sum())
        return {"iou": both / either if either else 0.0}
    from scipy.ndimage import gaussian_filter

    from onnuri.toyworld.codecs.image import (  # here, for torch is slow to import
        to_array,
        to_tensor,
    )

    original = to_array(to_tensor([item if modality == "image" else item[0]]))[0].astype(np.float64)
    decoded = (
        codec.decode(codes) if modality == "image" else next(iter(codec.decode_stream(codes)))[0]
    )
    decoded = decoded.astype(np.float64)
    error = float(((original - decoded) ** 2).mean())
    details = [x - gaussian_filter(x, (DETAILS, DETAILS, 0)) for x in (original, decoded)]
    details_original, details_decoded = ((x - x.mean((0, 1))).ravel() for x in details)
    correlation = float(details_original @ details_decoded) / max(
        float(np.sqrt((details_original @ details_original) * (details_decoded @ details_decoded))),
        1e-6,
    )
    return {"psnr": 10 * float(np.log10(255**2 / max(error, 1e-3))), "details": correlation}


def familiarity(modality: Modality, item: Any, codes: np.ndarray, codec: Any) -> float:
    """Return how familiar an item is, by its worst measure of `fidelity`: 1 is the median of the
    toy world's own items, below 0 an item counts as unfamiliar."""
    marks = thresholds()["marks"][modality]
    values = fidelity(modality, item, codes, codec)
    return min((values[k] - m["least"]) / (m["usual"] - m["least"]) for k, m in marks.items())


def objects_seen(layout: SlotLayout, codes: np.ndarray) -> int:
    """Return how many objects the codes [K] of a picture, video or shape hold."""
    ranges = layout.position_ranges
    gates = {gate for gate in layout.slot_gates if gate is not None}
    return sum(int(codes[k]) != ranges[k][1] - 1 for k in gates)


def notices(
    readings: Sequence[Reading], seen: Sequence[Seen], codecs: dict[str, Any], language: Language
) -> list[Notice]:
    """Return the notices about the words of the readings and about the media that were given, in a
    language."""
    results = []
    words = tuple(dict.fromkeys(word for reading in readings for word in reading.unknown))
    if words:
        word_list = ", ".join(f"'{word}'" for word in words[:5])
        message = (
            f"모르는 말이 있습니다: {word_list}. 답은 나머지 말만 보고 만들었습니다."
            if language == "ko"
            else f"I do not know {'this word' if len(words) == 1 else 'these words'}: {word_list}. "
            "The answer is made from the rest."
        )
        results.append(Notice("unknown_words", message, words))
    slips = tuple(dict.fromkeys(pair for reading in readings for pair in reading.slips))
    if slips:
        word_list = ", ".join(f"'{written}' → '{read}'" for written, read in slips[:5])
        message = (
            f"이렇게 고쳐 읽었습니다: {word_list}."
            if language == "ko"
            else f"Read as a slip of the keyboard: {word_list}."
        )
        results.append(Notice("corrected", message, tuple(word for pair in slips for word in pair)))
    for modality, item, codes in seen:
        # a codec that knows no objects says nothing of them
        if codecs[modality].spec.slots is None:
            continue
        seen_as: Modality = codecs[modality].spec.modality
        what = _WHAT[language][seen_as]
        if objects_seen(codecs[modality].spec.slots, codes) == 0:
            message = (
                f"{what}에서 아는 물체를 찾지 못했습니다."
                if language == "ko"
                else f"I see nothing that I know in {what}."
            )
            results.append(Notice("nothing_seen", message))
        elif familiarity(seen_as, item, codes, codecs[modality]) < 0:
            message = (
                f"{what}은 제가 배운 것과 많이 달라서, 답이 틀렸을 수 있습니다."
                if language == "ko"
                else f"{what[0].upper()}{what[1:]} is unlike anything I have learned; "
                "the answer may well be wrong."
            )
            results.append(Notice("unfamiliar", message))
    return results


def unsure(logprobs: dict[Modality, list[float]], language: Language) -> list[Notice]:
    """Return a notice if the answer is improbable: the mean log probability of one modality's
    sampled codes is below the threshold of `notice.json`, above which nearly all answers to known
    input lie."""
    least = thresholds().get("least_logprob", {})
    if not any(
        values and m in least and float(np.mean(values)) < least[m]
        for m, values in logprobs.items()
    ):
        return []
    message = (
        "이 답은 확실하지 않습니다: 제가 보기에도 그럴듯하지 않습니다."
        if language == "ko"
        else "I am not sure of this answer: it is improbable even to me."
    )
    return [Notice("improbable", message)]


def outside(words: str, reading: Reading) -> bool:
    """Return whether words that come alone ask for nothing that the model can do: a greeting, a
    question about nothing that was shown, or mostly unknown words."""
    mostly_unknown = reading.words > 0 and 2 * len(reading.unknown) > reading.words
    greets = is_greeting(words) and len(reading.unknown) + 3 > reading.words
    # "could I have a red ball?" asks for a thing of the world, "could I have your name?" for what
    # is in no list of it
    asks = ends_as_question(words) if reading.unknown else is_question(words)
    return greets or asks or mostly_unknown
