"""What is not known is told, in the asker's language, and the answer is given all the same."""

import numpy as np
import pytest
import torch

import onnuri
from onnuri.inference.request import SamplingConfig
from onnuri.modality import LANGUAGES
from onnuri.model.answer import run_pipelines
from onnuri.model.front_end import Notice
from onnuri.model.omni import Reply
from onnuri.toyworld import image, mesh, other
from onnuri.toyworld.front_end import notice
from onnuri.toyworld.front_end.notice import (
    CAN_DO,
    default_words,
    familiarity,
    fidelity,
    notices,
    objects_seen,
    outside,
    thresholds,
    unsure,
)
from onnuri.toyworld.front_end.toy import ToyFrontEnd
from onnuri.toyworld.scene import sample_scene
from onnuri.toyworld.text import caption

SHIPPED = ToyFrontEnd.load(onnuri.WEIGHTS / "laptop" / "codecs")


def blur(plane):
    """A Gaussian blur of 4 pixels by sums over a reflected border, cut at 16 pixels."""
    weights = np.exp(-0.5 * (np.arange(-16, 17) / 4.0) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(
            plane, [(16, 16) if k == axis else (0, 0) for k in (0, 1)], mode="symmetric"
        )
        plane = sum(w * np.take(padded, np.arange(k, k + 128), axis) for k, w in enumerate(weights))
    return plane


def test_fidelity_is_psnr_correlation_of_details_and_iou(codecs):
    """Against definitions of their own: mean squared error, numpy's correlation, and sets of filled
    voxels."""
    picture, voxels = (
        image.render(sample_scene(5, "seen")).image,
        mesh.voxels(sample_scene(5, "seen")),
    )
    codes = codecs["image"].encode(picture)
    again = codecs["image"].decode(codes).astype(float)
    found = fidelity("image", picture, codes, codecs["image"])
    assert found["psnr"] == pytest.approx(
        20 * np.log10(255 / np.sqrt(np.mean(np.square(picture - again))))
    )
    blurred = [
        np.stack([np.array(blur(x[..., c])) for c in range(3)], -1)
        for x in (picture.astype(float), again)
    ]
    level = [x - y for x, y in zip((picture.astype(float), again), blurred, strict=True)]
    flat = [(x - x.mean(axis=(0, 1), keepdims=True)).reshape(-1) for x in level]
    assert found["details"] == pytest.approx(np.corrcoef(*flat)[0, 1], abs=1e-3)
    codes = codecs["shape"].encode(voxels)
    a, b = (
        {tuple(v) for v in np.argwhere(x[..., 3] > 127)}
        for x in (voxels, codecs["shape"].decode(codes))
    )
    assert fidelity("shape", voxels, codes, codecs["shape"]) == {
        "iou": pytest.approx(len(a & b) / len(a | b))
    }


def test_one_measure_that_speaks_against_it_is_enough(monkeypatch):
    """Both measures at their medians are 1, at their least 0, and the worse of two counts."""
    marks = {
        "image": {"psnr": {"least": 20.0, "usual": 40.0}, "details": {"least": 0.2, "usual": 0.8}}
    }
    monkeypatch.setattr(notice, "thresholds", lambda: {"marks": marks})
    for psnr, alike, familiar in (
        (40, 0.8, 1),
        (20, 0.8, 0),
        (40, 0.2, 0),
        (30, 0.8, 0.5),
        (60, -0.1, -0.5),
    ):
        monkeypatch.setattr(
            notice, "fidelity", lambda *_, p=psnr, c=alike: {"psnr": p, "details": c}
        )
        assert familiarity("image", None, None, None) == pytest.approx(familiar)


def test_objects_are_counted_in_codes(codecs):
    for seed in range(6):
        scene = sample_scene(seed, "seen")
        assert objects_seen(
            codecs["image"].spec.slots, codecs["image"].encode(image.render(scene).image)
        ) == len(scene.things)
        assert objects_seen(
            codecs["shape"].spec.slots, codecs["shape"].encode(mesh.voxels(scene))
        ) == len(scene.things)
    assert (
        objects_seen(
            codecs["shape"].spec.slots, codecs["shape"].encode(np.zeros((64, 64, 64, 4), np.uint8))
        )
        == 0
    )


def codes_of(picture, modality, codecs):
    return [
        n.code
        for n in notices([], [(modality, picture, codecs[modality].encode(picture))], codecs, "en")
    ]


def test_own_and_the_second_renderer_s_are_familiar_and_noise_is_not(codecs):
    for seed in range(4):
        scene = sample_scene(900_000 + seed, "seen")
        assert (
            codes_of(image.render(scene).image, "image", codecs)
            == codes_of(other.render(scene), "image", codecs)
            == []
        )
        assert codes_of(mesh.voxels(scene), "shape", codecs) == []
    rng = np.random.default_rng(0)
    assert codes_of(rng.integers(0, 256, (128, 128, 3)).astype(np.uint8), "image", codecs)
    assert codes_of(np.full((128, 128, 3), 128, np.uint8), "image", codecs) == ["nothing_seen"]
    assert codes_of(np.zeros((64, 64, 64, 4), np.uint8), "shape", codecs) == ["nothing_seen"]
    assert set(thresholds()["marks"]) == {"image", "video", "shape"}


def test_every_notice_is_in_the_language_that_is_asked_for(codecs):
    gray, checked = (
        np.full((128, 128, 3), 128, np.uint8),
        image.render(sample_scene(3, "seen")).image.copy(),
    )
    checked[::2] = 255 - checked[::2]
    empty = np.zeros((64, 64, 64, 4), np.uint8)
    seen = [
        (m, x, codecs[m].encode(x))
        for m, x in (("image", gray), ("image", checked), ("shape", empty))
    ]
    readings = [SHIPPED.read(sentence) for sentence in ("a dog", "a red shpere")]
    for language in LANGUAGES:
        told = notices(readings, seen, codecs, language)
        assert {n.code for n in told} == {
            "unknown_words",
            "corrected",
            "nothing_seen",
            "unfamiliar",
        } and len(told) == 5
        assert {max(n.message) >= "가" for n in told} == {language == "ko"}


def test_unknown_words_are_named_in_both_languages(codecs):
    for language in LANGUAGES:
        said = notices([SHIPPED.read("a dog on a bicycle")], [], codecs, language)
        assert [n.code for n in said] == ["unknown_words"] and said[0].details == ("dog", "bicycle")
        assert "'dog', 'bicycle'" in said[0].message and (max(said[0].message) >= "가") == (
            language == "ko"
        )


def test_a_reply_answers_and_tells(model):
    known = model.reply("image", text="a small red sphere")
    assert known.notices == () and known.item.shape == (128, 128, 3) and known.language == "en"
    strange = model.reply("image", text="커다란 강아지를 그려줘")
    assert strange.item.shape == (128, 128, 3)
    assert [n.details for n in strange.notices if n.code == "unknown_words"] == [("강아지를",)]


def test_a_slip_is_unknown_where_nothing_mends_it():
    reading = ToyFrontEnd().read("a red shpere")
    assert reading.unknown == ("shpere",) and reading.text == "a red shpere"


def test_what_was_read_otherwise_than_it_was_written_is_told():
    """A slip is, what lacks a space is not."""
    mended = default_words().read("a red shpere abovea blue cube")
    for language in LANGUAGES:
        (said,) = notices([mended], [], {}, language)
        assert (
            said.code == "corrected"
            and said.details == ("shpere", "sphere")
            and "'shpere' → 'sphere'" in said.message
        )


def test_an_answer_is_improbable_by_the_mean_of_what_was_drawn(monkeypatch):
    monkeypatch.setattr(notice, "thresholds", lambda: {"least_logprob": {"image": -1.0}})
    for drawn, told in (([-0.5, -1.4], []), ([-0.5, -1.6], ["improbable"]), ([], [])):
        for language in LANGUAGES:
            assert [n.code for n in unsure({"image": drawn}, language)] == told
    assert unsure({"audio": [-9.0]}, "en") == []


def test_the_engine_says_how_likely_what_it_drew_was(model):
    """Against a pass over the whole answer: every drawn id's share among those that may stand at
    its place."""
    answers, contexts = model.answers, []
    sampling = {**model.sampling, "image": SamplingConfig(temperature=0.0, guidance=1.0)}
    steps = answers.answer(
        "image", [("text", "a small red sphere")], "en", sampling, 0, contexts.append
    )
    (codes,) = run_pipelines(model.engine, [steps])
    context, v = contexts[0], model.layout
    ids = [*context.ids, *v.opening("image", "en"), *v.ids("image", codes).tolist()]
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([ids])).logits[0].float()
    allowed, begin = answers.token_constraint("image"), len(ids) - len(codes)
    wanted = [
        float(logits[begin + k - 1, lo:hi].log_softmax(-1)[ids[begin + k] - lo])
        for k, (lo, hi) in enumerate(allowed.position_ranges)
    ]
    held = [
        k for k, lead in enumerate(allowed.slot_gates) if lead in (None, k)
    ]  # what follows an absent object is no choice
    assert np.array(context.logprobs["image"])[held] == pytest.approx(
        np.array(wanted)[held], abs=0.15
    )


def test_own_sentences_are_never_flagged(codecs):
    for seed in range(20):
        for language in LANGUAGES:
            sentence = caption(
                sample_scene(700_000 + seed, "seen"), language, np.random.default_rng(seed)
            )
            reading = SHIPPED.read(sentence)
            assert not reading.unknown and not outside(sentence, reading), sentence


@pytest.mark.parametrize(
    ("said", "elsewhere"),
    [
        ("could we try a cylinder in black?", False),
        ("별 하나 줄 수 있어?", False),
        ("what about a red ball?", False),
        ("how about dinner?", True),
        ("what about you?", True),
        ("can you do my homework?", True),
        ("커피 한 개 줄래?", True),
        ("what does paint cost?", True),
        ("밥 하나요?", True),
        ("can you see a red ball?", True),
    ],
)
def test_who_asks_for_a_thing_of_the_world_asks_for_nothing_elsewhere(codecs, said, elsewhere):
    assert outside(said, SHIPPED.read(said)) == elsewhere


def test_what_was_told_is_not_said_twice():
    notice = Notice("outside", "I only know a small world.")
    assert Reply(notice.message, "en", (notice,)).told == []
    assert (
        Reply(np.zeros(3), "en", (notice,)).told
        == Reply("a ball", "en", (notice,)).told
        == [notice.message]
    )


@pytest.mark.parametrize(
    "said", ["안녕하세요", "hello", "what is the capital of France?", "프랑스의 수도는 어디인가요?"]
)
def test_a_greeting_or_a_question_of_elsewhere_is_told_what_can_be_done(model, said):
    reply = model.reply("text", text=said)
    assert reply.item == CAN_DO["ko" if said > "ㄱ" else "en"]
