"""A model's folder names its front end; without one, sentences are read as they are."""

import json
import shutil

import pytest

import onnuri
from onnuri.errors import ConfigError
from onnuri.model.front_end import FRONT_ENDS, FrontEnd, Notice, Reading, front_end_class
from onnuri.model.omni import OmniModel


def test_the_plain_front_end_changes_nothing_and_tells_nothing(codecs, tmp_path):
    plain, text = FrontEnd.load(tmp_path), codecs["text"]
    codes = text.encode("A RED Ball.")
    assert plain.read("A RED Ball.") == Reading("A RED Ball.")
    assert plain.encode("A RED Ball.", text).tolist() == codes.tolist()
    assert plain.spoken(codes, text) is codes
    assert plain.refusal("hello", Reading("hello"), "en") is None
    assert plain.notices([Reading("a dog", unknown=("dog",))], [], codecs, "en") == []
    assert plain.unsure({"image": [-99.0]}, "en") == []
    plain.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_name_is_that_of_its_class():
    assert {front_end_class(name).name for name in FRONT_ENDS} == set(FRONT_ENDS)
    with pytest.raises(
        ConfigError, match="front end 'other': is not known; use one of plain, words, toy"
    ):
        front_end_class("other")


def test_a_folder_that_names_none_is_read_as_before_and_another_as_it_says(tmp_path):
    shutil.copytree(onnuri.WEIGHTS / "laptop", tmp_path / "model")
    path = tmp_path / "model" / "onnuri.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    assert about.pop("front_end") == "toyworld"
    path.write_text(json.dumps(about), encoding="utf-8")
    old = OmniModel.load(tmp_path / "model", weights=False).front_end
    assert (old.name, old.read("a red shpere").text) == ("toyworld", "a red sphere")
    path.write_text(json.dumps({**about, "front_end": "plain"}), encoding="utf-8")
    plain = OmniModel.load(tmp_path / "model", weights=False).front_end
    assert (plain.name, plain.read("a red shpere").text) == ("plain", "a red shpere")


def test_corrections_of_more_than_spaces_are_slips_and_a_notice_is_sent_whole():
    reading = Reading("a red ball", corrected=(("ared", "a red"), ("bal", "ball")))
    assert reading.slips == (("bal", "ball"),)
    notice = Notice("corrected", "Read as", ("bal", "ball"))
    assert notice.to_json() == {
        "code": "corrected",
        "message": "Read as",
        "details": ["bal", "ball"],
    }
