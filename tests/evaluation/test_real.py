"""The measurement of a model on real pictures, of models that know all, nothing, and one thing."""

import json

import numpy as np
import pytest

from onnuri.data import picture_store
from onnuri.data.picture_store import PictureItem, PictureStore
from onnuri.errors import ConfigError
from onnuri.evaluation import real, real_report
from onnuri.evaluation.collages import CollageFigures
from onnuri.evaluation.real import held_out, measure_named, rare_tags
from onnuri.evaluation.retrieval import Share
from onnuri.modality import language_of
from onnuri.model.front_end import Notice
from onnuri.model.omni import Reply

SIDE = 16
STYLES = ("light", "dark")
WORDS = {"light": {"ko": "밝은", "en": "light"}, "dark": {"ko": "어두운", "en": "dark"}}


def pixels_of(concept, style):
    """Return noise that a concept alone decides, dark or light."""
    noise = np.random.default_rng(concept).integers(0, 120, (SIDE, SIDE, 3)).astype(np.uint8)
    return noise + (130 if style == "light" else 0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Forty concepts known from light pictures and held out in dark ones, ten of them flags; five
    unseen ones; ten known in both styles."""
    pairs = []
    for concept in range(55):
        for style in STYLES:
            is_known = style == "light" if concept < 40 else concept >= 45
            split = "train" if is_known else "test"
            names = (f"것 {concept}", f"Thing {concept}", "물건", f"tag {concept}")
            item = PictureItem(
                concept=str(concept),
                style=style,
                kind="flag" if concept < 10 else "things",
                names=names,
                split=split,
            )
            pairs.append((item, pixels_of(concept, style)))
    folder = tmp_path_factory.mktemp("real") / "pictures"
    picture_store.write(folder, pairs, len(pairs), SIDE)
    return PictureStore(folder)


class Pixels:
    """A judge that sees pixels, without their brightness."""

    name = "pixels"

    def features(self, pictures):
        flat = np.array([picture.astype(float).ravel() for picture in pictures])
        mean = flat.mean(1, keepdims=True)
        flat = np.concatenate([(flat - mean) / 50, (mean - 128) / 4], 1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)


class Exact:
    """A codec that loses nothing."""

    class config:
        side = SIDE

    def encode_batch(self, pictures):
        return pictures

    def decode_batch(self, codes):
        return codes


class Model:
    """A model that knows all concepts from `knows` on, and takes others for concept 12."""

    def __init__(self, knows=0):
        self.codecs, self.knows = {"image": Exact()}, knows

    def generate_batch(self, to, inputs, language="ko", seeds=None, temperature=None):
        return [getattr(self, f"_{to}")(*each[0], language) for each in inputs]

    def replies(self, to, inputs, language, temperature):
        """It doubts what it takes for concept 12."""
        assert temperature == 0
        names = self.generate_batch(to, inputs, language)
        doubt = (Notice("improbable", "I may not know this"),)
        return [Reply(name, language, doubt if name.endswith(" 12") else ()) for name in names]

    def _image(self, modality, sentence, _):
        style = "dark" if sentence.startswith(("dark ", "어두운 ")) else "light"
        assert language_of(sentence) in ("ko", "en") and "  " not in sentence
        number = int(sentence.split()[-1])
        return pixels_of(number if number >= self.knows else 12, style)

    def _text(self, modality, picture, language):
        known = {pixels_of(c, s).tobytes(): c for c in range(55) for s in STYLES}
        number = known.get(picture.tobytes(), 0)
        number = number if number >= self.knows else 12
        return f"것 {number}" if language == "ko" else f"THING  {number}"


@pytest.fixture
def judged(monkeypatch):
    monkeypatch.setattr(real_report, "EfficientNetJudge", Pixels)


def test_pictures_are_grouped_by_what_is_known_of_them(store):
    groups = [(item.group, int(item.concept)) for item in held_out(store, "test", SIDE)]
    assert [c for group, c in groups if group == "special"] == list(range(10))
    assert [c for group, c in groups if group == "pairs"] == list(range(10, 40))
    assert [c for group, c in groups if group == "unseen"] == sorted(list(range(40, 45)) * 2)
    toned = PictureItem(concept="1F44B-1F3FD", style="dark", names=("손",), split="test")
    store.items.append(toned.replace(split="train"))
    store.items.append(toned)
    pixels = store.pixels
    store.pixels = np.concatenate([pixels, pixels[:2]])
    try:
        assert held_out(store, "test", SIDE)[-1].group == "special"
    finally:
        del store.items[-2:]
        store.pixels = pixels


def test_a_model_that_knows_all_is_right_and_figures_are_written(store, judged, tmp_path):
    out = tmp_path / "real.json"
    figures = real_report.run(Model(), store, WORDS, "test", None, out)
    pairs = figures.drawn["pairs"]
    assert (pairs.at_1.n, pairs.at_1.right, pairs.at_5.right, pairs.style.right) == (30,) * 4
    assert pairs.chance_1 == pytest.approx(1 / 40) and pairs.chance_5 == pytest.approx(5 / 40)
    assert pairs.round_trip_1.right == pairs.round_trip_style.right == 30
    assert pairs.shuffled_1.right == 0
    assert figures.drawn["special"].at_1.told() == "n = 10"
    for language in ("ko", "en"):
        named = figures.named[f"pairs {language}"]
        assert (named.exact.right, named.top_5.right, named.or_tag.right) == (30, 30, 30)
        assert named.shuffled.right == 0
    written = json.loads(out.read_text())
    assert written["drawn"]["pairs"]["at_1"] == {"n": 30, "right": 30} and "machine" in written
    page = out.with_suffix(".html").read_text()
    assert page.count("data:image/png") == 3 * real_report.SAMPLES
    assert "Drawings, unchosen" in page and "새 그림체" in page and "100.0 %" in page


def test_a_model_that_knows_some_is_right_in_these(store, judged, tmp_path):
    figures = real_report.run(Model(25), store, WORDS, "test", None, tmp_path / "real.json")
    # those from 25 on, and number 12, for which all others are taken
    assert figures.drawn["pairs"].at_1.right == 16 and figures.drawn["pairs"].style.right == 30
    assert figures.named["pairs en"].exact.right == 16
    page = (tmp_path / "real.html").read_text()
    assert "○" in page and "×" in page
    unsure = {group: (each.right, each.n) for group, each in figures.unsure.items()}
    # number 12 is right, and doubted too; photographs are taken for it, in both languages
    assert unsure == {
        "right": (2, 52),
        "pairs": (30, 60),
        "special": (20, 20),
        "unseen": (0, 20),
        "photographs": (24, 24),
    }


def test_fewer_are_measured_if_fewer_are_asked_for(store, judged, tmp_path):
    figures = real_report.run(Model(), store, WORDS, "test", 4, tmp_path / "real.json")
    assert {group: each.at_1.n for group, each in figures.drawn.items()} == {
        "pairs": 4,
        "special": 4,
        "unseen": 4,
    }
    # they are looked for among as many real pictures as all are
    assert {group: each.gallery for group, each in figures.drawn.items()} == {
        "pairs": 40,
        "special": 40,
        "unseen": 10,
    }
    assert figures.drawn["pairs"].chance_1 == pytest.approx(1 / 40)
    with pytest.raises(ConfigError, match=r"--items 0: is below 1"):
        real_report.run(Model(), store, WORDS, "test", 0, tmp_path / "none.json")


def test_collages_are_on_the_page_and_read_again():
    ten, none = Share(n=40, right=10), Share(n=3, right=1)
    composed = CollageFigures(
        told={"one": ten, "two": ten},
        relations={"top": ten},
        drawn={"one": none, "two": ten},
        real={"one": ten, "two": ten},
        round_trip={"one": ten, "two": ten},
        chance=0.1,
    )
    figures = real.RealFigures(split="dev", judge="j", drawn={}, named={}, collages=composed)
    rows = real_report.rows_collages(figures)
    assert [row.head.split(" · ")[1] for row in rows] == [
        "one thing",
        "two things",
        "above and below",
    ]
    assert rows[0].cells[1] == "n = 3" and rows[1].cells[1].startswith("25.0 %")
    assert real.RealFigures.from_json(json.loads(json.dumps(figures.to_json()))) == figures
    assert real_report.rows_collages(figures.replace(collages=None)) == []


def test_a_tag_counts_as_a_name_if_few_carry_it(store):
    rare = rare_tags(store)
    assert rare["ko"] == set() and "tag 7" not in rare["en"]  # 1 of 55 is more than 1 in 100
    real_store = type("Store", (), {"items": [i for i in store.items for _ in "x"]})()
    real_store.items += [
        PictureItem(concept=f"more {k}", names=(f"n{k}", "물건")) for k in range(80)
    ]
    rare = rare_tags(real_store)
    assert "tag 7" in rare["en"] and "물건" not in rare["ko"]
    items = [item for item in held_out(store, "test", SIDE) if item.group == "pairs"][:2]
    answers = [("tag 10", "thing 10"), ("tag 12", "thing 11")]
    named = measure_named(items, answers, "en", rare["en"])
    assert (named.exact.right, named.or_tag.right, named.top_5.right) == (0, 1, 2)


def test_mistakes_are_one_line(store, judged, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="'dev': has no picture with a name"):
        real_report.run(Model(), store, WORDS, "dev", None, tmp_path / "real.json")
    assert list(tmp_path.iterdir()) == []


def test_answers_are_asked_for_several_times_and_the_most_frequent_come_first(store):
    class Unsure(Model):
        """A model that is unsure when it is warm."""

        def generate_batch(self, to, inputs, language="ko", seeds=(0,), temperature=None):
            return [("rare", "Often", "often", "cold")[seed % 4] for seed in seeds]

        def replies(self, to, inputs, language, temperature):
            return [Reply("Cold", language) for _ in inputs]

    items = held_out(store, "test", SIDE)[:1]
    (given,) = real.name(Unsure(), items, "en")
    assert given.answers == ("cold", "often", "rare") and not given.is_unsure
