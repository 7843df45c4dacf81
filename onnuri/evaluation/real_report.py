"""This module runs the measurement of a model on real pictures (`real.py`) and writes what came of
it: one JSON file, and one page with samples that nobody chose, in Korean and English.

It prints as it goes, because drawing and naming a few hundred pictures takes minutes.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from onnuri import files
from onnuri.data.picture_store import PictureStore
from onnuri.data.picture_tasks import Words
from onnuri.errors import ConfigError
from onnuri.evaluation import collages, real
from onnuri.evaluation.judges.efficientnet import EfficientNetJudge
from onnuri.evaluation.machine import machine
from onnuri.evaluation.pictures import photographs
from onnuri.evaluation.real import Drawn, GivenNames, HeldOut, RealFigures
from onnuri.media import writing
from onnuri.modality import LANGUAGES

SAMPLES = 24
"""answers of each kind on the page, drawn without looking"""
GROUPS = {
    "pairs": ("새 그림체", "known concept, unseen style"),
    "special": ("특수", "specials"),
    "unseen": ("처음 보는 것", "unseen concept"),
}
"""groups of held-out pictures, in both languages"""
COLLAGES = 240
"""collages that are told and drawn"""
SCENES = {
    "one": ("한 가지", "one thing"),
    "two": ("두 가지", "two things"),
    "count": ("여럿", "several alike"),
    "many": ("셋이나 넷", "three or four things"),
    "left": ("왼쪽과 오른쪽", "left and right"),
    "top": ("위와 아래", "above and below"),
}
"""kinds of collages and relations of pairs, in both languages"""
UNSURE_GROUPS = {
    "right": ("맞은 이름", "right names"),
    **GROUPS,
    "photographs": ("사진", "photographs of nothing it learned"),
}
"""groups of names that may be doubted"""


class Row(NamedTuple):
    """A Row is a line of figures on the page, its head in both languages."""

    head: str
    cells: tuple[str, ...]


def run(
    model: Any,
    store: PictureStore,
    words: Words,
    split: str,
    items: int | None,
    out: Path,
    seed: int = 0,
) -> RealFigures:
    """Measure a model on at most `items` held-out pictures per group of a split (None: on all) and
    write OUT, a JSON file, and the page beside it.

    Raises ConfigError for a split without pictures, for fewer than one, and where the judge is not
    installed.
    """
    if items is not None and items < 1:
        raise ConfigError(f"--items {items}", "is below 1", "give 1 or more, or leave it out")
    files.check_place(out)
    judge = EfficientNetJudge()
    rng, codec = np.random.default_rng(seed), model.codecs["image"]
    everyone = real.held_out(store, split, codec.config.side)
    if not everyone:
        raise ConfigError(f"split {split!r}", "has no picture with a name", "use dev or test")
    numbers = _some(everyone, items, rng)
    chosen = [everyone[k] for k in numbers]
    rare = real.rare_tags(store)
    named: dict[str, Any] = {}
    given: list[GivenNames] = []
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        drawing = progress.add_task("drawing", total=len(chosen))
        asked, pictures = real.draw(model, chosen, words, partial(progress.advance, drawing))
        for language in LANGUAGES:
            own = [item for item in chosen if language in item.names]
            naming = progress.add_task(f"naming, {language}", total=len(own))
            given += real.name(model, own, language, partial(progress.advance, naming))
        count = COLLAGES if items is None else min(items, COLLAGES)
        composing = progress.add_task("collages", total=3 * count)
        advance = partial(progress.advance, composing)
        composed = collages.measure(model, store, judge, count, advance)
    foreign = [photograph.pixels for photograph in photographs(codec.config.side)]
    drawn, right = real.measure_drawn(store, everyone, numbers, pictures, codec, judge, seed)
    for group in drawn:
        for language in LANGUAGES:
            of = [one for one in given if one.language == language and one.item.group == group]
            named[f"{group} {language}"] = real.measure_named(
                [one.item for one in of], [one.answers for one in of], language, rare[language]
            )
    figures = RealFigures(
        split=split,
        judge=judge.name,
        drawn=drawn,
        named=named,
        collages=composed,
        unsure=real.measure_unsure(model, given, foreign),
    )
    files.write_json({"machine": machine(), **figures.to_json()}, out)
    samples = [
        Drawn(item, sentence, picture, bool(is_right))
        for item, sentence, picture, is_right in zip(chosen, asked, pictures, right, strict=True)
    ]
    files.write_bytes(_page(figures, samples, given, rng).encode(), out.with_suffix(".html"))
    show(figures)
    return figures


def _some(items: list[HeldOut], most: int | None, rng: np.random.Generator) -> list[int]:
    """Return the numbers of at most `most` items of each group, drawn without looking; None: of
    all."""
    groups: dict[str, list[int]] = {}
    for k in rng.permutation(len(items)).tolist():
        groups.setdefault(items[k].group, []).append(k)
    return sorted(k for of in groups.values() for k in of[:most])


def rows_drawn(figures: RealFigures) -> list[Row]:
    """Return the lines of figures of drawings."""
    rows = []
    for group, each in figures.drawn.items():
        cells = (
            each.at_1.told(),
            each.at_5.told(),
            each.style.told(),
            f"{100 * each.chance_1:.1f} %",
            each.round_trip_1.told(),
            each.shuffled_1.told(),
        )
        rows.append(Row(" · ".join(GROUPS[group]), cells))
    return rows


def rows_named(figures: RealFigures) -> list[Row]:
    """Return the lines of figures of names."""
    rows = []
    for key, each in figures.named.items():
        group, language = key.split(" ")
        head = f"{' · '.join(GROUPS[group])} ({language})"
        shares = (each.exact, each.top_5, each.or_tag, each.shuffled)
        rows.append(Row(head, tuple(share.told() for share in shares)))
    return rows


def rows_collages(figures: RealFigures) -> list[Row]:
    """Return the lines of figures of collages: of each kind, then of the relations of pairs."""
    found = figures.collages
    if not found:
        return []
    empty = ("",) * 3
    rows = []
    for kind, told in found.told.items():
        drawn = tuple(
            each[kind].told() if kind in each else ""
            for each in (found.drawn, found.real, found.round_trip)
        )
        rows.append(Row(" · ".join(SCENES[kind]), (told.told(), *drawn)))
    for relation, told in found.relations.items():
        rows.append(Row(" · ".join(SCENES[relation]), (told.told(), *empty)))
    return rows


COLLAGE_HEADS = ("told right", "drawn: things right", "of the real collage", "of its round trip")


def rows_unsure(figures: RealFigures) -> list[Row]:
    """Return the lines of figures of names of which the model is unsure."""
    return [
        Row(" · ".join(UNSURE_GROUPS[group]), (each.told(),))
        for group, each in figures.unsure.items()
    ]


UNSURE_HEADS = ("'I may not know this'",)
DRAWN_HEADS = ("R@1", "R@5", "style", "chance", "round trip R@1", "shuffled R@1")
NAMED_HEADS = ("exact", "top five", "name or rare tag", "shuffled")
TITLES = {
    "drawn": "이름으로 그린 그림 · Drawn from names",
    "named": "그림에 붙인 이름 · Names of pictures",
    "collages": "여러 그림을 모은 그림 · Collages",
    "unsure": '"모르는 것 같습니다" · "I may not know this"',
}
"""tables' titles, and in both languages"""


def tables(figures: RealFigures) -> dict[str, tuple[tuple[str, ...], list[Row]]]:
    """Return the heads and lines of each table of a model's figures, by its title."""
    found = (
        (DRAWN_HEADS, rows_drawn(figures)),
        (NAMED_HEADS, rows_named(figures)),
        (COLLAGE_HEADS, rows_collages(figures)),
        (UNSURE_HEADS, rows_unsure(figures)),
    )
    return dict(zip(TITLES, found, strict=True))


def show(figures: RealFigures) -> None:
    """Print a model's figures."""
    console = Console(highlight=False)
    for title, (heads, rows) in tables(figures).items():
        table = Table(title, *heads)
        for row in rows:
            table.add_row(row.head.split(" · ")[-1], *row.cells)
        console.print(table)


def _page(
    figures: RealFigures,
    drawn: Sequence[Drawn],
    given: Sequence[GivenNames],
    rng: np.random.Generator,
) -> str:
    """Return the page of a model's figures, with samples drawn without looking."""
    return files.rendered(
        Path(__file__).with_name("real_page.html.j2"),
        figures=figures,
        tables=tables(figures),
        titles=TITLES,
        drawn=[drawn[k] for k in rng.permutation(len(drawn))[:SAMPLES]],
        given=[given[k] for k in rng.permutation(len(given))[:SAMPLES]],
        groups=GROUPS,
        source=data_url,
    )


def data_url(pixels: np.ndarray) -> str:
    """Return a picture uint8 [H, W, 3] as the address of an image on a page."""
    return "data:image/png;base64," + base64.b64encode(writing.to_bytes(pixels, ".png")).decode()
