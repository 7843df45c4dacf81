"""`onnuri data inspect`: one page that needs nothing else, whose counts are the tables' own."""

import html.parser
import json
import re

import media_files
import pytest
from media_files import write_lines

from onnuri.cli import main
from onnuri.data.ingest.inspect import count, directions_of
from onnuri.data.ingest.page_words import REASONS, WORDS
from onnuri.data.ingest.table import Tables


def call(*words):
    main([str(word) for word in ("data", *words)])


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    source = folder / "in"
    source.mkdir()
    files = {
        "a.jpg": media_files.picture(1),
        "b.png": media_files.picture(2, "PNG"),
        "bell.wav": media_files.sound(1),
        "film.mp4": media_files.movie(1),
        "moving.gif": media_files.animation(1),
        "thing.glb": media_files.mesh(1),
        "lies.png": b"%PDF-1.7",
    }
    for name, data in files.items():
        (source / name).write_bytes(data)
    records = [
        {"image": "a.jpg", "captions": {"ko": "사과 <b>", "en": "an apple"}, "licence": "MIT"},
        {"image": "b.png", "audio": "bell.wav", "text": "a <script>bell</script>"},
        {"text": "words alone"},
    ]
    write_lines(source / "list.jsonl", records)
    call("ingest", source, "-o", folder / "table", "--workers", 0)
    return folder / "table"


def test_counts_are_the_tables_own(out):
    counts = count(Tables(out))
    assert counts.documents == 6
    assert counts.media == {"image": 2, "audio": 1, "video": 2, "shape": 1}
    assert counts.directions["image → text"] == counts.directions["text → image"] == 2
    assert counts.directions["audio → text"] == counts.directions["audio → image"] == 1
    assert counts.directions["text"] == 1 and counts.directions["video"] == 2
    assert counts.languages == {"ko": 1, "en": 3}
    assert counts.licences == {"MIT": 1, "": 5} and counts.splits.total() == 6
    assert counts.reasons == {"unread_format": 1} and counts.media_seconds[
        "audio"
    ] == pytest.approx(1.5)


class Page(html.parser.HTMLParser):
    """What of a page matters: tags, addresses, and words outside of them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.words = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.words += data


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_page_needs_nothing_else(out, tmp_path, language):
    call("inspect", out, "-o", tmp_path / "p.html", "--language", language)
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    page = Page(text)
    assert all(address.startswith("data:") for address in page.addresses)
    assert {"img", "audio", "video"} <= set(page.tags) and "script" not in page.tags
    # two pictures, an animation and a mesh
    assert page.tags.count("img") == 4 and page.tags.count("audio") == page.tags.count("video") == 1
    for key in ("by_direction", "by_licence", "by_split", "by_reason", "samples"):
        assert WORDS[language][key] in page.words
    assert REASONS[language]["unread_format"] in page.words
    assert "사과 <b>" in page.words and "a <script>bell</script>" in page.words
    assert re.search(r'<html lang="(ko|en)"', text)[1] == language


def test_samples_are_as_many_as_asked_for(out, tmp_path):
    for asked, shown in ((0, 0), (2, 2), (50, 6)):
        call("inspect", out, "-o", tmp_path / "p.html", "--samples", asked)
        assert (tmp_path / "p.html").read_text().count('<div class="sample">') == shown


def test_every_word_is_there_in_both_languages():
    assert WORDS["en"].keys() == WORDS["ko"].keys() and REASONS["en"].keys() == REASONS["ko"].keys()


def test_directions_of_a_document():
    assert directions_of(["image", "text", "text"]) == {"image → text", "text → image"}
    assert len(directions_of(["image", "text", "audio"])) == 6
    assert directions_of(["text", "text"]) == {"text"}


def test_a_folder_without_a_table(tmp_path, capsys):
    (tmp_path / "ingest.json").write_text(json.dumps([]))
    with pytest.raises(SystemExit) as stop:
        call("inspect", tmp_path, "-o", tmp_path / "p.html")
    assert stop.value.code == 2 and "holds no ingested media" in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()
