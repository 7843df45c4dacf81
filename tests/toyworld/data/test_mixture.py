"""The mix: a pure function of its random numbers, weights as set, and no still is followed by
motion it cannot show."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from toy_specs import toy_specs

import onnuri
from onnuri.modality import LANGUAGES, MEDIA
from onnuri.toyworld import image, mesh, wordings
from onnuri.toyworld.attributes import CARRIES
from onnuri.toyworld.data.mixture import (
    KINDS,
    VISUAL_MODALITIES,
    MixtureWeights,
    TaskSampler,
    alike_codes,
)
from onnuri.toyworld.front_end.toy import ToyFrontEnd
from onnuri.toyworld.oracles import image as see
from onnuri.toyworld.oracles import mesh as touch
from onnuri.toyworld.scene import HELD_OUT, RELATIONS, sample_scene
from onnuri.toyworld.tasks import COMPARISONS

ROWS = 48
NAMES = [
    "image",
    "video",
    "shape",
    "edit_image",
    "edit_video",
    "edit_shape",
    "still",
    "phrase",
    "people",
    "count",
    *(
        f"{c}_{x}"
        for x in LANGUAGES
        for c in ("audio", "voice", "beat", "ask", "tell", "edit", "say", "reply", "tap", "spoken")
    ),
    *(f"{x}_{k}" for x in LANGUAGES for k in "012s"),
]
STEPS = {
    "still": 3,
    "video": 2,
    "audio": 2,
    "voice": 2,
    "beat": 2,
    "say": 8,
    "reply": 8,
    "tap": 8,
    "edit_ko": 3,
    "edit_en": 3,
    "edit_video": 3,
    "edit_image": 6,
    "edit_shape": 6,
}
"""a column has an entry in one row of so many"""
PHRASES: list[str] = []
LAYOUTS = {spec.name: spec.slots for spec in toy_specs() if spec.slots}


class Made:
    """A table whose entries tell their column and row: [column, row]."""

    rows = ROWS

    def get(self, row, column):
        assert row in self.rows_with(column), (row, column)
        return np.array([row]) if column == "count" else np.array([NAMES.index(column), row])

    def column(self, name):
        assert name == "count"
        return np.arange(ROWS) % 3 + 1

    def text(self, row, column):
        assert row in self.rows_with(column), (row, column)
        return f"{column} {row}"

    def scene(self, row):
        return sample_scene(row)

    def rows_with(self, column):
        return np.arange(0, ROWS, STEPS.get(column, STEPS.get(column.split("_")[0], 1)))


class Said:
    """A text codec whose codes tell the column and row of a table's sentence, and that others are
    people's or ours."""

    def encode(self, sentence):
        column, _, row = sentence.partition(" ")
        if column in NAMES and row.isdigit():
            return np.array([NAMES.index(column), int(row)])
        PHRASES.append(sentence)
        ours = [s for asked, answers in COMPARISONS.values() for s in (asked, *answers)]
        return np.array([NAMES.index("phrase" if sentence in ours else "people"), 0])


class Reads(ToyFrontEnd):
    """A front end that keeps what is given."""

    def encode(self, sentence, text):
        GIVEN.append(sentence)
        return text.encode(sentence)


GIVEN: list[str] = []
EQUAL = {"loss_text": 1.0, "loss_audio": 1.0}


def only(**weights: float) -> MixtureWeights:
    return MixtureWeights(**(EQUAL | {k: 0.0 for k in KINDS} | weights))


def drawn(config, count=600, seed=0):
    rng = np.random.default_rng(seed)
    sampler = TaskSampler(config, Made(), Said(), Reads(), LAYOUTS)
    return [
        [
            SimpleNamespace(
                modality=s.codec,
                column=NAMES[s.codes[0]],
                row=int(s.codes[1]),
                language=s.language,
                weight=s.weight,
                task=s.task,
                words=s.words and [NAMES[x[0]] for x in (s.words.codes, s.words.frames_per_word)],
            )
            for s in sampler.sample(rng)
        ]
        for _ in range(count)
    ]


def test_draws_follow_from_the_random_numbers():
    assert (
        drawn(MixtureWeights(), 100, 7)
        == drawn(MixtureWeights(), 100, 7)
        != drawn(MixtureWeights(), 100, 8)
    )


def test_scenes_of_one_object_are_thinned_and_video_has_its_share():
    rows = Counter(s[0].row % 3 for s in drawn(only(caption=1.0, single=0.0), 300))
    assert rows[0] == 0 and rows[1] and rows[2]
    some = {
        s[0].row for s in drawn(only(caption=1.0, single=0.5, video=0.0), 2000) if s[0].row % 3 == 0
    }
    assert 0 < len(some) < ROWS // 3
    media = Counter(s[0].modality for s in drawn(only(caption=1.0, video=0.6), 2000))
    assert abs(media["video"] / 2000 - 0.6) < 0.05 and abs(media["image"] / 2000 - 0.2) < 0.05


def test_every_pair_of_what_is_read_and_seen_occurs_and_a_sequence_is_of_one_scene():
    for kind, pairs in {
        "text_to_x": {("text", m) for m in VISUAL_MODALITIES},
        "caption": {(m, "text") for m in VISUAL_MODALITIES},
        "convert": {(a, b) for a in VISUAL_MODALITIES for b in VISUAL_MODALITIES if a != b},
    }.items():
        sequences = drawn(only(**{kind: 1.0}), 800)
        assert set(Counter(tuple(x.modality for x in s) for s in sequences)) == pairs
        for first, second in sequences:
            assert first.row == second.row
            assert (first.weight, second.weight) == (MixtureWeights().source_loss, 1.0)


def test_what_is_given_is_encoded_as_given_and_what_is_wanted_is_not():
    for kind, per_sequence in {"text_to_x": 1, "caption": 0, "translate": 1, "ask": 1}.items():
        GIVEN.clear()
        drawn(only(**{kind: 1.0}), 50)
        assert 50 * per_sequence <= len(GIVEN) <= 50 * 2 * per_sequence


def test_speech_meets_its_words_only():
    for sequence in drawn(MixtureWeights(**EQUAL), 3000):
        assert len(sequence) == 2 or all(s.modality != "audio" for s in sequence)
    for sound, words in drawn(only(asr=1.0)):
        assert (sound.modality, sound.language, sound.weight, sound.words) == (
            "audio",
            None,
            0.0,
            None,
        )
        kind, language = sound.column.split("_")
        assert (
            words.language == language
            and words.column == {"audio": f"spoken_{language}", "say": f"ask_{language}"}[kind]
        )
    for words, sound in drawn(only(tts=1.0)):
        kind, language = sound.column.split("_")
        assert words.language == sound.language == language
        assert words.column == {"voice": f"spoken_{language}", "reply": f"tell_{language}"}[kind]
        assert sound.words == [
            words.column,
            {"voice": f"beat_{language}", "reply": f"tap_{language}"}[kind],
        ]
        assert (words.weight, sound.weight) == (MixtureWeights().source_loss, 1.0)


@pytest.mark.parametrize("kind", ["caption", "convert", "chain"])
def test_after_a_still_nothing_tells_of_motion(kind):
    for first, *rest in drawn(only(**{kind: 1.0}), 1500):
        if "motion" in CARRIES[first.modality]:
            continue
        moving = first.row % STEPS["still"] != 0
        for s in rest:
            assert not moving or (
                s.column.endswith("_s") if s.modality == "text" else s.modality != "video"
            )


def test_languages_of_columns_and_tags_agree_and_translations_cross():
    for sequence in drawn(MixtureWeights(**EQUAL), 1500):
        for s in sequence:
            assert (s.language is None) == (
                s.modality in VISUAL_MODALITIES or (s.modality == "audio" and s.weight < 1)
            )
            assert s.language is None or s.column == "phrase" or s.language in s.column.split("_")
    for a, b in drawn(only(translate=1.0), 200):
        assert a.language != b.language and a.row == b.row and a.modality == b.modality == "text"


def test_chains_are_of_three_or_four_media_without_sound_and_alone_has_one():
    assert {len(s) for s in drawn(only(chain=1.0))} == {3, 4}
    assert all(len({x.modality for x in s} - {"audio"}) == len(s) for s in drawn(only(chain=1.0)))
    assert all(len(s) == 1 and s[0].weight == 1.0 for s in drawn(only(unconditional=1.0)))


def test_questions_and_edits_have_their_shape():
    sequences = drawn(only(ask=1.0))
    assert {s[0].modality for s in sequences} == set(MEDIA) - {"audio"}
    for about, asked, told in sequences:
        assert asked.column == f"ask_{asked.language}" and told.column == f"tell_{asked.language}"
        assert about.row == asked.row == told.row and told.weight == 1.0
    for before, said, after in drawn(only(edit=1.0)):
        assert after.column == f"edit_{before.modality}" and said.column == f"edit_{said.language}"


def test_comparisons_say_which_has_more():
    PHRASES.clear()
    for k, (first, second, asked, told) in enumerate(drawn(only(compare=1.0), 200)):
        which, more = PHRASES[2 * k : 2 * k + 2]
        assert which == COMPARISONS[asked.language][0] and told.language == asked.language
        # `Made` counts as many objects as the row's number
        expected = 0 if first.row > second.row else 1 if second.row > first.row else 2
        assert (
            first.modality == second.modality and more == COMPARISONS[asked.language][1][expected]
        )


def test_a_modality_s_weight_multiplies_its_own_items_only():
    plain, weighted = (
        drawn(MixtureWeights(**EQUAL), 300),
        drawn(MixtureWeights(**EQUAL | {"loss_audio": 0.5}), 300),
    )
    for a, b in zip(plain, weighted, strict=True):
        for x, y in zip(a, b, strict=True):
            assert (x.column, x.row) == (y.column, y.row)
            assert y.weight == pytest.approx(x.weight * (0.5 if x.modality == "audio" else 1.0))


def test_the_answer_says_what_was_asked():
    wanted = {
        "caption": "describe",
        "translate": "translate",
        "ask": "answer",
        "compare": "answer",
        "edit": "edit",
        "asr": "transcribe",
        "text_to_x": None,
        "convert": None,
        "tts": None,
    }
    for kind, task in wanted.items():
        for *given, last in drawn(only(**{kind: 1.0}), 60):
            assert last.task == task and all(s.task is None for s in given)


def test_people_s_sentences_are_also_said_again_in_their_language():
    pairs = {
        (a.language == b.language, b.task) for a, b in drawn(only(translate=1.0, people=1.0), 200)
    }
    assert pairs == {(True, "describe"), (False, "translate")}


def test_people_are_given_and_never_answered_with():
    for kind in ("text_to_x", "caption", "translate", "ask"):
        sequences = drawn(only(**{kind: 1.0, "people": 1.0}), 200)
        texts = [s for *given, _ in sequences for s in given if s.modality == "text"]
        assert texts and sum(s.column == "people" for s in texts) >= 0.3 * len(texts), kind
        last = [s[-1] for s in sequences if s[-1].modality == "text"]
        assert all(s.column != "people" or kind == "ask" for s in last), kind


def test_a_motion_is_left_out_only_where_no_motion_is_wanted(monkeypatch):
    """In half of the sentences for a picture or a shape; never where a video, a translation or an
    answer follows."""
    said: list[bool] = []
    say = wordings.say
    monkeypatch.setattr(
        wordings,
        "say",
        lambda *args, **given: said.append(given.get("motion", True)) or say(*args, **given),
    )
    for kinds, share in (
        ({"text_to_x": 1.0, "video": 0.0}, 0.5),
        ({"text_to_x": 1.0, "video": 1.0}, 1.0),
        ({"translate": 1.0}, 1.0),
        ({"ask": 1.0}, 1.0),
    ):
        said.clear()
        drawn(only(people=1.0, **kinds), 400)
        assert said and abs(np.mean(said) - share) < (0.1 if share < 1 else 1e-9), kinds


@pytest.mark.slow
@pytest.mark.parametrize("objects", [2, 3])
@pytest.mark.parametrize("modality", ["image", "shape"])
def test_a_double_shows_the_first_thing_at_every_place(codecs, modality, objects):
    """The oracle sees things that are alike where the codes of a scene of as many were, in the
    codecs' own order."""
    codec = codecs[modality]
    settings = (
        codec.config.replace(visual=codec.config.visual.replace(order="diagonal"))
        if modality == "image"
        else codec.config.replace(order="diagonal")
    )
    diagonal = type(codec)(settings).eval()
    diagonal.load_state_dict(codec.state_dict())
    made = (sample_scene(k, objects=objects) for k in range(60))
    scenes = [s for s in made if all(s.things[0].radius <= thing.radius for thing in s.things)][:6]
    for scene in scenes:
        written = diagonal.encode(
            image.render(scene).image if modality == "image" else mesh.voxels(scene)
        )
        seen = {"image": see, "shape": touch}[modality].observe(
            codec.decode(alike_codes(written, codec.spec.slots, scene))
        )
        names = [(t.solid, t.color) for t in seen.things]
        assert names == [(scene.things[0].solid, scene.things[0].color)] * objects, scene.seed


def test_noise_is_up_to_three_words_that_mean_nothing_here_and_leaves_the_sentence_in_order():
    rng = np.random.default_rng(0)
    sampler, quiet = (
        TaskSampler(only(text_to_x=1.0, noise=share), Made(), Said(), Reads(), LAYOUTS)
        for share in (1.0, 0.0)
    )
    sentence = ["a", "red", "ball", "left", "of", "cubes"]
    for language in LANGUAGES:
        for _ in range(100):
            words = sampler._with_noise(" ".join(sentence), language, rng).split()
            extra = list(words)
            for word in sentence:
                extra.remove(word)
            assert 1 <= len(extra) <= 3 and set(extra) <= set(sampler.noise[language])
            assert [w for w in words if w in sentence and w not in extra] == [
                w for w in sentence if w not in extra
            ]
        assert quiet._with_noise("a red ball", language, rng) == "a red ball"


def test_noise_has_no_word_that_training_says_of_the_world(codecs):
    front_end = ToyFrontEnd.load(onnuri.WEIGHTS / "laptop" / "codecs")
    words = front_end.spelling.counts
    sampler = TaskSampler(MixtureWeights(), Made(), codecs["text"], front_end, LAYOUTS)
    assert all(len(noise) > 100 and not set(noise) & set(words) for noise in sampler.noise.values())
    assert all(word.isascii() for word in sampler.noise["en"]) and not any(
        word.isascii() for word in sampler.noise["ko"]
    )


def test_two_alike_stand_in_no_relation_that_is_held_out_and_in_every_other(monkeypatch):
    """Two cubes side by side may be held out; one above the other is said all the same."""
    drawings: list[tuple[str, str]] = []

    def doubled(scene, language, rng):
        drawings.extend((scene.things[0].solid, r) for _, r, _ in scene.relations())
        return "alike"

    monkeypatch.setattr(
        "onnuri.toyworld.data.mixture.alike_codes", lambda codes, layout, scene: codes
    )
    monkeypatch.setattr(wordings, "doubled", doubled)
    sampler, rng = (
        TaskSampler(only(double=1.0), Made(), Said(), Reads(), LAYOUTS),
        np.random.default_rng(0),
    )
    sampler._scene = lambda row: sample_scene(
        row * 7 + len(drawings), objects=2
    )  # a new scene each time
    for _ in range(1500):
        sampler._double(rng)
    held = {
        (a, r) for kind, *rest in HELD_OUT if kind == "relation" for r, a, b in [rest] if a == b
    }
    assert held and not set(drawings) & held
    partly = {(s, r) for s in {a for a, _ in held} for r in RELATIONS} - held
    assert partly <= set(drawings)
