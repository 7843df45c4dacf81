"""The committed manifest and sample: splits, licences, hashes."""

import hashlib
import io
import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

import onnuri
from onnuri.cli import main
from onnuri.data.ingest.licences import is_permissive
from onnuri.data.ingest.run import split_of
from onnuri.data.ingest.table import DOCUMENTS, MEDIA, Tables
from onnuri.data.real import manifest
from onnuri.media import vector

ROOT = Path(onnuri.__file__).parents[1]
SAMPLE = ROOT / "tests/samples/real"
FREE = {"CC0-1.0", "MIT", "CC-BY-3.0", "CC-BY-4.0"}
SHARE_ALIKE = ("GPL", "-SA", "MPL")


@pytest.fixture(scope="module")
def known():
    return manifest.read()


@pytest.fixture(scope="module")
def sample():
    return [json.loads(line) for line in (SAMPLE / "items.jsonl").read_text().splitlines()]


def look(item):
    return "fluent-3d" if item.style == "fluent-anim" else item.style


def within(count, n, share, deviations=5):
    """Whether a count is what a share of n would give by chance."""
    return abs(count - n * share) <= deviations * math.sqrt(n * share * (1 - share))


def test_every_item_is_whole(known):
    assert len({(item.package, item.path) for item in known.items}) == len(known.items)
    for item in known.items:
        assert item.package in known.packages and len(item.sha256) == 64, item
        assert item.concept and item.kind and item.split in ("train", "dev", "test"), item
        assert item.en or item.group == "text", item
        assert item.ko or item.style not in ("fluent-3d", "noto", "openmoji"), item
    for package in known.packages.values():
        assert package.licence and package.credit and package.bytes and len(package.sha256) == 64
    assert {item.group for item in known.items} == {
        *("pictures", "skin-tones", "text", "sounds", "animations", "meshes")
    }


def test_a_concept_is_in_one_split_but_for_held_out_pairs(known):
    splits = defaultdict(set)
    for item in known.items:
        splits[item.concept, look(item)].add(item.split)
    assert all(len(found) == 1 for found in splits.values())
    by_concept = defaultdict(dict)
    for (concept, style), found in splits.items():
        by_concept[concept][style] = next(iter(found))
    for concept, styles in by_concept.items():
        if split_of(concept) == "train":
            assert "train" in styles.values(), concept
        else:
            assert set(styles.values()) == {split_of(concept)}, concept


def test_shares_of_splits(known):
    concepts = Counter(split_of(concept) for concept in {item.concept for item in known.items})
    n = concepts.total()
    assert within(concepts["dev"], n, 0.1) and within(concepts["test"], n, 0.1), concepts
    pairs = {}
    for item in known.items:
        if item.group in ("pictures", "skin-tones"):
            pairs[item.concept, item.style] = item.split
    styles = Counter(concept for concept, _ in pairs)
    several = [
        split
        for (concept, _), split in pairs.items()
        if split_of(concept) == "train" and styles[concept] > 1
    ]
    held_out = Counter(several)
    for split in ("dev", "test"):  # fewer than 6 of 100: some are too like what is in train
        assert held_out[split] <= 0.06 * len(several) + 5 * math.sqrt(0.06 * len(several))
        assert held_out[split] >= 0.02 * len(several), held_out


def test_the_manifest_is_small():
    folder = ROOT / "onnuri/data/real"
    assert (folder / manifest.ITEMS).stat().st_size <= 1.5e6


def test_the_sample_is_free_and_of_the_manifest(known, sample):
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) <= 5e6
    names = {line["file"] for line in sample}
    assert {path.name for path in SAMPLE.iterdir()} == names | {"items.jsonl", "CREDITS.md"}
    by_hash = defaultdict(list)
    for item in known.items:
        by_hash[item.sha256].append(item)
    credits = (SAMPLE / "CREDITS.md").read_text()
    for line in sample:
        data = (SAMPLE / line["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == line["sha256"]
        (item,) = (i for i in by_hash[line["sha256"]] if i.concept == line["concept"])
        package = known.packages[item.package]
        licence = item.licence or package.licence
        assert line["licence"] == licence and licence in FREE and is_permissive(licence)
        assert not any(mark in package.licence for mark in SHARE_ALIKE)
        said = (item.style, item.kind, item.split, item.en, item.ko)
        assert said == tuple(line.get(k, "") for k in SAID)
        assert f"{line['credit']} ({line['source']}): {licence}" in credits


SAID = ("style", "kind", "split", "text_en", "text_ko")


def on_white(path):
    """A picture as 64 x 64 grey-free pixels on white, by Pillow's own composition."""
    data = path.read_bytes()
    if path.suffix == ".svg":
        data = vector.draw(data, path.name, 64)
    picture = (
        Image.open(io.BytesIO(data)).convert("RGBA").resize((64, 64), Image.Resampling.LANCZOS)
    )
    return np.asarray(Image.alpha_composite(Image.new("RGBA", (64, 64), "white"), picture))[..., :3]


def test_no_held_out_picture_of_the_sample_is_like_one_in_train(sample):
    by_concept = defaultdict(list)
    for line in sample:
        if line["style"] in ("fluent-3d", "fluent-flat", "twemoji"):
            by_concept[line["concept"]].append(line)
    compared = 0
    for concept, lines in by_concept.items():
        train = [line for line in lines if line["split"] == "train"]
        for line in lines if split_of(concept) == "train" else ():
            if line["split"] == "train":
                continue
            for other in train:
                pair = (on_white(SAMPLE / each["file"]) for each in (line, other))
                assert structural_similarity(*pair, channel_axis=2) < 0.8, (line, other)
                compared += 1
    assert compared >= 10


def test_the_sample_is_ingested_as_it_is_said(tmp_path, sample):
    out = tmp_path / "table"
    main(["data", "ingest", str(SAMPLE / "items.jsonl"), "-o", str(out), "--workers", "0"])
    columns = ["concept", "style", "kind", "split", "parts", "licence", "tags"]
    documents = list(Tables(out).rows(DOCUMENTS, columns))
    assert len(documents) == len(sample) and not (out / "rejected.jsonl").read_text()
    for row, line in zip(documents, sample, strict=True):
        assert row["split"] in (line["split"], "none")
        assert (row["style"], row["kind"], row["concept"], row["licence"]) == tuple(
            line[k] for k in ("style", "kind", "concept", "licence")
        )
        texts = {part["language"]: part["text"] for part in row["parts"] if part["text"]}
        assert texts.get("en") == line["text_en"] and texts.get("ko") == line.get("text_ko")
        assert len(row["tags"]) == sum(len(line.get(k, ())) for k in ("tags_ko", "tags_en"))
    sides = [(m["width"], m["height"]) for m in Tables(out).rows(MEDIA, ["width", "height"])]
    assert {side for side in sides if side[0]} == {(256, 256)}


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_readme_says_how_many_items_there_are(name):
    page = (Path(__file__).parents[3] / name).read_text(encoding="utf-8")
    assert f"[{len(manifest.read().items):,}" in page
