"""Writes every figure of README and docs from the committed results: `make figures`.

A page says where: what stands between `<!-- name -->` and `<!-- /name -->` is replaced. A test
holds the pages against the results, so a number cannot be typed in by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from onnuri import recipes
from onnuri.evaluation import real_report
from onnuri.evaluation.real import RealFigures
from onnuri.modality import MEDIA
from onnuri.profile import run_forecast
from onnuri.recipes.layout_table import COLUMNS, LayoutTable
from onnuri.toyworld.oracles import quality, report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LANGUAGE_NAMES = {"ko": "Korean", "en": "English"}
PAGES = (
    "README.md",
    "README.ko.md",
    "docs/matrix.md",
    "docs/codecs.md",
    "docs/server.md",
    "docs/planner-speed.md",
    "docs/planner-recipes.md",
    "docs/planner-dryrun.md",
    "docs/training.md",
    "docs/model.md",
    "docs/gallery.md",
    "docs/pictures.md",
)


def read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(r) + " |" for r in rows)])


def square(found: dict[str, Any], split: str, brief: bool = True) -> str:
    """5 × 5: attributes right, %; in full with interval, ceiling and chance."""

    def show(c: dict[str, Any]) -> str:
        value = f"{100 * c['attribute_accuracy']:.0f}"
        if brief:
            return value
        low, high = (100 * v for v in c["interval"])
        edit = (
            f"; edited {100 * c['edited']:.0f}, kept {100 * c['kept']:.0f}, unchanged copy {100 * c['unchanged_copy']:.0f}"
            if "edited" in c
            else ""
        )
        task = f" {c['task']}" if c["from"] == c["to"] else ""
        return f"**{value}**{task} ({low:.0f}–{high:.0f}; ceiling {100 * c['ceiling']:.0f}, chance {100 * c['chance']:.0f}{edit})"

    rows = [
        [s, *(" · ".join(show(c) for c in report.overall(found, split, s, t)) for t in MEDIA)]
        for s in MEDIA
    ]
    return table(["from \\ to", *MEDIA], rows)


def summary(found: dict[str, Any], split: str) -> str:
    by = ", ".join(f"{a} {100 * v:.0f}" for a, v in report.by_attribute(found, split).items())
    return f"Off the diagonal, mean {100 * report.mean(found, split):.1f} %: {by}."


def matrix_brief(name: str) -> str | None:
    found = read(name)
    if not found:
        return None
    parts = []
    for split in ("seen", "held_out"):
        parts += [
            f"`{split}`, {found['items']} items a cell:",
            "",
            square(found, split),
            "",
            summary(found, split),
            "",
        ]
    parts.append(f"Measured in {found['seconds'] / 60:.0f} minutes on {found['machine']}.")
    return "\n".join(parts).strip()


def matrix_full(name: str) -> str | None:
    found = read(name)
    if not found:
        return None
    parts = []
    for split in ("seen", "held_out"):
        parts += [
            f"### `{split}`",
            "",
            square(found, split, brief=False),
            "",
            summary(found, split),
            "",
        ]
        for language in ("ko", "en"):
            mean = [
                c["attribute_accuracy"]
                for c in found["cells"]
                if c["split"] == split
                and c["language"] == language
                and c["objects"] == "all"
                and c["from"] != c["to"]
            ]
            parts += [
                f"Cells with {LANGUAGE_NAMES[language]} text or speech, mean: "
                f"{100 * sum(mean) / len(mean):.1f} %.",
                "",
            ]
        for objects in (1, 2, 3):
            mean = [
                c["attribute_accuracy"]
                for c in found["cells"]
                if c["split"] == split and c["objects"] == objects and c["from"] != c["to"]
            ]
            parts += (
                [f"Scenes of {objects}: {100 * sum(mean) / len(mean):.1f} %.", ""] if mean else []
            )
    return "\n".join(parts).strip()


def matrix_readme(korean: bool = False) -> str | None:
    """One table of compositions that training never saw: attributes right and whole scenes right,
    and both by objects."""
    found = read("matrix")
    if not found:
        return None

    def cell(c: dict[str, Any]) -> str:
        return f"{100 * c['attribute_accuracy']:.0f} / {100 * c['scene_accuracy']:.0f}"

    split, korean_names = (
        "held_out",
        dict(zip(MEDIA, ("글", "그림", "소리", "동영상", "3D"), strict=True)),
    )
    names = korean_names if korean else dict(zip(MEDIA, MEDIA, strict=True))
    rows = [
        [
            f"**{names[s]}**",
            *(" · ".join(cell(c) for c in report.overall(found, split, s, t)) for t in MEDIA),
        ]
        for s in MEDIA
    ]
    off = [
        c
        for c in found["cells"]
        if c["split"] == split and c["from"] != c["to"] and c["language"] == "all"
    ]
    by_objects = []
    for objects in (1, 2, 3):
        some = [c for c in off if c["objects"] == objects]
        attributes, scenes = (
            100 * sum(c[k] for c in some) / len(some)
            for k in ("attribute_accuracy", "scene_accuracy")
        )
        by_objects.append(f"{objects}: {attributes:.0f} / {scenes:.0f}")
    chance = (
        100
        * sum(c["chance"] for c in off if c["objects"] == "all")
        / sum(c["objects"] == "all" for c in off)
    )
    if korean:
        said = (
            f"대각선 밖 평균, 물체 수별 (속성 / 장면 전체): {', '.join(by_objects)}. 속성의 우연 수준 {chance:.0f}. "
            f"칸마다 {found['items']}개, {found['seconds'] / 60:.0f}분, {found['machine']}."
        )
    else:
        said = (
            f"Off the diagonal by number of objects (attributes / whole scenes): {', '.join(by_objects)}. "
            f"Chance for attributes: {chance:.0f}. {found['items']} items a cell, "
            f"{found['seconds'] / 60:.0f} minutes on {found['machine']}."
        )
    return "\n".join(
        [table(["보낸 것 \\ 받은 것" if korean else "from \\ to", *names.values()], rows), "", said]
    )


def planner_line(korean: bool = False) -> str | None:
    """The one figure of the planner: the error of speed where the source of a run was left out of
    the fit."""
    found = read("planner_cv")
    if not found:
        return None
    dense, moe = (100 * found["source"][k]["error"]["median"] for k in ("dense", "moe"))
    runs = sum(found["source"][k]["error"]["rows"] for k in ("dense", "moe"))
    if korean:
        return (
            f"공개된 학습 {runs}건의 속도를, 그 출처를 빼고 맞춘 뒤 예측한 오차의 중앙값: 밀집 모델 **{dense:.1f} %**, "
            f"전문가 혼합 **{moe:.1f} %**."
        )
    return (
        f"Speed of {runs} published runs, predicted with their source left out of the fit, is off by **{dense:.1f} %** at the "
        f"median for dense models and **{moe:.1f} %** for mixtures of experts."
    )


def demo(korean: bool = False) -> str | None:
    """What the first command costs."""
    found = read("demo")
    if not found:
        return None
    seconds, params = sorted(found["demo_seconds"])[1], found["params"] / 1e6
    if korean:
        return (
            f"모델은 매개변수 {params:.1f}M개({found['layers']}층, 폭 {found['width']}), 코덱을 포함한 가중치 "
            f"{found['weights_mb']:.0f} MB, 설치 {found['installed_mb'] / 1000:.1f} GB, "
            f"설치한 뒤 데모 {seconds:.0f}초({found['machine']})."
        )
    return (
        f"The model has {params:.1f}M parameters ({found['layers']} layers of {found['width']}); weights with codecs take "
        f"{found['weights_mb']:.0f} MB, the installation {found['installed_mb'] / 1000:.1f} GB, the demo {seconds:.0f} seconds "
        f"once installed ({found['machine']})."
    )


def gallery() -> str | None:
    """What the twelve sentences of the gallery were, and what the oracle says of each output."""
    found = read("gallery")
    return (
        table(
            ["", "sentence", "to", "attributes right"],
            [
                [str(k + 1), row["sentence"], row["to"], f"{row['right']} of {row['asked']}"]
                for k, row in enumerate(found["rows"])
            ],
        )
        if found
        else None
    )


def gallery_line(korean: bool = False) -> str | None:
    """How many of the gallery's outputs are wholly right."""
    found = read("gallery")
    if not found:
        return None
    right = sum(r["right"] == r["asked"] for r in found["rows"])
    if korean:
        return f"고르지 않은 무작위 출력 {len(found['rows'])}개(그 가운데 {right}개가 모두 맞음, [문장](docs/gallery.md)):"
    return f"{len(found['rows'])} random outputs, chosen by nobody ({right} wholly right, [their sentences](docs/gallery.md)):"


def words() -> str | None:
    """Whole scenes from words, by what was changed and by how they are said."""
    found = read("words")
    if not found:
        return None
    shown = {
        **found["changes"],
        **found["people"],
        **{f"two things, {k.replace('_', ' ')}": r for k, r in found["relations"].items()},
        **{
            f"a name and nothing more, {LANGUAGE_NAMES[k]}": r
            for k, r in found["names alone"].items()
        },
    }
    rows = [
        [
            name,
            f"{100 * r['scenes']:.0f}",
            "–".join(f"{100 * x:.0f}" for x in r["interval"]),
            f"{100 * r['attributes']:.0f}",
            str(r["n"]),
        ]
        for name, r in shown.items()
    ]
    objects = [
        [name, *(f"{100 * r[n]['scenes']:.0f} of {r[n]['n']}" for n in ("1", "2", "3"))]
        for name, r in found["objects"].items()
    ]
    return "\n\n".join(
        [
            table(["sentence", "whole scenes, %", "95 %", "attributes, %", "scenes"], rows),
            table(["whole scenes, %, by objects", "1", "2", "3"], objects),
        ]
    )


SENTENCES = {
    "fresh": "a stranger's, not seen before",
    "people": "the project's own",
    "strangers": "two other strangers', which showed what training lacked",
}
"""who typed the sentences of a file of `benchmarks/sentences`"""


def sentences() -> str | None:
    """Return a table of whole scenes drawn from sentences that were typed by hand, by who typed
    them and what they name."""
    reports = {name: found for name in SENTENCES if (found := read(name))}
    groups = list(
        dict.fromkeys(
            key for found in reports.values() for key in found if key not in ("machine", "rows")
        )
    )
    rows = [
        [
            f"{len(found['rows'])}: {SENTENCES[name]}",
            *(
                f"{100 * found[key]['scenes']:.0f} ({found[key]['sentences']})"
                if key in found
                else "–"
                for key in groups
            ),
        ]
        for name, found in reports.items()
    ]
    return table(["whole scenes, % (sentences)", *groups], rows) if reports else None


def words_line(korean: bool = False) -> str | None:
    """How far people's words are understood."""
    fresh, held = read("fresh"), read("words")
    if not fresh or not held:
        return None
    one, two, updown, apart, alike = (
        round(100 * fresh[key]["scenes"])
        for key in ("1 objects", "2 objects", "above and below", "without a place", "alike")
    )
    alone = round(100 * min(r["scenes"] for r in held["names alone"].values()))
    if korean:
        return (
            f"이 프로젝트를 본 적 없는 사람이 쓴 문장 {len(fresh['rows'])}개(재기 전에는 아무도 읽지 않음)로 그린 그림에서 "
            f"말한 것이 모두 맞은 비율은 물체 하나 **{one} %**, 둘 **{two} %**(위와 아래 {updown} %), "
            f'자리를 말하지 않은 둘 {apart} %, 똑같은 둘이나 셋 {alike} %; 이름 하나만 쓴 말("공") {alone} %.'
        )
    return (
        f"Pictures of {len(fresh['rows'])} sentences that a stranger to the project typed, which nobody here had read "
        f"before, are wholly right in **{one} %** with one thing, **{two} %** with two ({updown} % above or below), "
        f'{apart} % with two and no place, {alike} % with two or three alike; of a name and nothing more ("cube"), '
        f"in {alone} %."
    )


def further() -> str | None:
    found = read("matrix")
    if not found:
        return None
    rows = [
        [
            r["name"],
            r["from"],
            r["to"],
            f"{100 * r['attribute_accuracy']:.0f}",
            f"{100 * r['interval'][0]:.0f}–{100 * r['interval'][1]:.0f}",
            f"{100 * r['chance']:.0f}",
        ]
        for r in found["further"]
    ]
    return table(["what", "from", "to", "right, %", "interval", "chance"], rows)


def codecs() -> str | None:
    cards = read("codecs")
    return quality.markdown(cards).strip() if cards else None


def speed() -> str | None:
    found = read("speed")
    if not found:
        return None
    rows = [
        [name, f"{v['median']:.2f}", f"{v['worst']:.2f}"] for name, v in found["seconds"].items()
    ]
    items = ", ".join(f"{m} {v:.0f}" for m, v in found["rendered_a_second"].items())
    return "\n".join(
        [
            table(["from a sentence (captions: from a picture)", "seconds, median", "worst"], rows),
            "",
            f"Rendered a second on one core: {items}. Machine: {found['machine']}.",
        ]
    )


def serve() -> str | None:
    found = read("serve")
    if not found:
        return None
    rows = []
    for batch, of in found["decoding"].items():
        for name, speed in of["tokens_a_second"].items():
            ratios = [
                of["ratios"].get(f"{name} / {base}", "–")
                for base in ("transformers.generate", "vLLM")
            ]
            rows.append([batch, name, f"{speed:.0f}", *map(str, ratios)])
    head = ["", "decoding", "tokens a second", "times transformers.generate", "times vLLM"]
    first = [
        [name, f"{v['median'] * 1000:.0f}", f"{v['worst'] * 1000:.0f}"]
        for name, v in found["seconds"].items()
    ]
    t = found.get("transcripts")
    spoken = (
        (
            f"The oracle hears in {t['whole'] / t['sentences']:.1%} of {t['sentences']} streamed sounds exactly what the "
            f"transcript says, and {t['attributes_right'] / t['attributes_asked']:.1%} of its attributes."
        )
        if t
        else ""
    )
    return "\n".join(
        [
            table(head, rows),
            "",
            table(["over HTTP, from the request", "ms, median", "worst"], first),
            "",
            spoken,
            "",
            f"Greedy, {found['tokens']} tokens, taking turns in one run. Machine: {found['machine']}.",
        ]
    )


def planner() -> str | None:
    found = read("planner_cv")
    if not found:
        return None

    def error(of: dict[str, Any], which: str = "error") -> str:
        e = of.get(which, of)
        return f"{100 * e['median']:.1f} / {100 * e['p90']:.1f} %"

    def line(name: str, left_out: dict[str, Any]) -> list[str]:
        return [
            name,
            *(error(left_out[k]) for k in kinds),
            f"{100 * left_out['coverage']['pooled']:.0f} %",
            f"{left_out['ranks']['median']:.2f}",
        ]

    kinds, rows, more, unseen = ("dense", "moe"), [], found["further"], read("planner_unseen")
    for name, key in (("a source (repository)", "source"), ("a model", "model")):
        rows.append(line(name, found[key]))
        rows.append(
            [
                "– median utilisation of the rest",
                *(error(found[key][k], "utilisation_baseline") for k in kinds),
                "",
                "",
            ]
        )
    rows += [
        [name, *(error(found[key][k]) for k in kinds), "", ""]
        for name, key in (("nothing (in sample)", "fitted"), ("everything (priors alone)", "prior"))
    ]
    rows += [line("**further table**: a source", more["source"]), line("a model", more["model"])]
    rows += [["nothing (in sample)", *(error(more["fitted"][k]) for k in kinds), "", ""]]
    if unseen:
        rows.append(
            [
                "all of it: before any constant saw them",
                *(error(unseen[k]) for k in kinds),
                f"{100 * unseen['all']['coverage']:.0f} %",
                "",
            ]
        )
    head = [
        "left out",
        "dense",
        "mixture of experts",
        "80 % intervals hold",
        "Spearman over layouts, median of models",
    ]
    return table(head, rows)


def twin(name: str) -> dict[str, Any]:
    """What `make bench-nano` found of a system's small twin; nothing where it has not been
    measured."""
    path = recipes.matrix(name)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def twins() -> str | None:
    """What the small twins learned on one budget."""
    rows = []
    for name, found in ((n, twin(n)) for n in recipes.NAMES):
        if found:
            seen, held = found["off_diagonal"]["seen"], found["off_diagonal"]["held_out"]
            rows.append(
                [
                    name,
                    f"{found['total_params'] / 1e6:.1f}M, {found['active_params'] / 1e6:.1f}M",
                    f"{found['steps']:,}",
                    f"{found['training_seconds'] / 60:.0f}",
                    f"{found['loss']:.3f}",
                    *(
                        f"{100 * of['attribute_accuracy']:.0f} ({100 * of['chance']:.0f})"
                        for of in (seen, held)
                    ),
                    f"{100 * min(seen['worst_above_chance'], held['worst_above_chance']):+.1f}",
                ]
            )
    head = [
        "twin",
        "parameters, active",
        "steps",
        "minutes of two cores",
        "loss",
        "off the diagonal, % (chance)",
        "held-out compositions",
        "worst cell, points above chance",
    ]
    return table(head, rows) if rows else None


def forecasts() -> str | None:
    """Of the small twins that had a forecast: what it was, and what came. Minutes depend on what
    else a machine does."""
    rows, shown = [], ("weights", "optimizer", "peak memory", "speed", "loss")
    for name, found in ((n, twin(n)) for n in recipes.NAMES):
        if "forecast" in found:
            pairs = {
                figure: f"{told} → {was}"
                for figure, told, was in run_forecast.comparison_rows(
                    run_forecast.Forecast.from_json(found["forecast"]),
                    run_forecast.RunOutcome.from_json(found["outcome"]),
                )
            }
            rows.append([name, *(pairs[figure] for figure in shown)])
    return table(["twin: forecast (80 % range) → outcome", *shown], rows) if rows else None


def layout_table() -> str | None:
    path = RESULTS / "layout_table.json"
    if not path.exists():
        return None
    found = LayoutTable.load(path)
    models = {column.name: column for column in COLUMNS}
    about = [f"{m.name} ({models[m.name].family}): {models[m.name].about}" for m in found.models]
    plans = [
        f"`{plan.plan}` of {plan.recipe} is "
        + (f"`{plan.row}`" if plan.row else f"{plan.engine}'s")
        for plan in found.plans
    ]
    reasons = [f"{number}: {text}" for number, text in enumerate(found.refusals, 1)]
    lines = [
        table(["layout", *models], found.texts()),
        f"{found.cells} cells over {found.config.world_size} ranks, {found.config.steps} steps; "
        f"{found.refused} refused"
        + (f" ({'; '.join(reasons)})" if reasons else "")
        + f"; {found.seconds / 60:.0f} minutes ({found.machine}). Columns: {'; '.join(about)}.",
        f"Layouts of the recipes' plans here: {'; '.join(plans)}.",
    ]
    return "\n\n".join(lines)


def dryrun() -> str | None:
    """Traces of a step at full size."""
    found = read("dryrun")
    return (
        table(
            [
                "recipe",
                "GPUs",
                "peak GiB",
                "activations GiB at most",
                "fullest rank over mean",
                "seconds",
                "GiB taken",
            ],
            [
                [
                    name,
                    f"{r['gpus']:,}",
                    f"{r['peak_bytes'] / 2**30:.1f}",
                    f"{r['activation_bytes'] / 2**30:.1f}",
                    f"{r['imbalance']:.2f}",
                    f"{r['seconds']:.0f}",
                    f"{r['resident_gib']:.2f}",
                ]
                for name, r in found.items()
            ],
        )
        if found
        else None
    )


def real_figures() -> RealFigures | None:
    """The figures of the model of pictures."""
    found = read("real")
    return (
        RealFigures.from_json({k: v for k, v in found.items() if k != "machine"}) if found else None
    )


def real_table(title: str) -> str | None:
    """One of the tables of the model of pictures, as `onnuri evaluate real` prints them."""
    figures = real_figures()
    if not figures:
        return None
    heads, rows = real_report.tables(figures)[title]
    if not rows:
        return None
    return table([title, *heads], [[row.head.split(" · ")[-1], *row.cells] for row in rows])


def real_codec() -> str | None:
    """What the codec of pictures gives back of pictures that it was not trained on."""
    found = read("picture_codec")
    if not found:
        return None
    rows = [
        [
            split if group == "all" else group,
            f"{r['n']:,}",
            f"{r['psnr']:.2f}",
            f"{r['psnr_inside']:.2f}",
            f"{r['thumbnail']:.2f}",
        ]
        for split in ("dev", "photographs")
        for group, r in found[split]["groups"].items()
        if group == "all" or split == "dev"
    ]
    return table(["pictures", "n", "PSNR", "inside the mask", "8 × 8 thumbnail"], rows)


def real_line(korean: bool = False) -> str | None:
    """README's line of the model of pictures."""
    figures = real_figures()
    if not figures:
        return None
    pairs = figures.drawn["pairs"]
    drawn, chance = pairs.at_1.told(), f"{100 * pairs.chance_1:.1f} %"
    ko, en = (figures.named[f"pairs {language}"].exact.told() for language in ("ko", "en"))
    if korean:
        return (
            f"배우지 않은 그림체의 이름으로 그린 그림이 그 이름의 실제 그림과 가장 가까운 비율 **{drawn}**(우연 {chance}), "
            f"배우지 않은 그림의 이름을 정확히 맞힌 비율: 한국어 **{ko}**, 영어 **{en}**."
        )
    return (
        f"Drawn from names in styles that training did not pair with them, nearest to a real picture of that name: "
        f"**{drawn}** (chance {chance}); pictures named exactly: Korean **{ko}**, English **{en}**."
    )


def gallery_real() -> str | None:
    """What the gallery of the model of pictures was asked and answered."""
    found = read("gallery_real")
    if not found:
        return None
    named = []
    for k, r in enumerate(found["named"]):
        doubt = ", doubted" if r["doubted"] else ""
        verdict = "right" if r["answer"] == r["name"] else f"it is {r['name']}"
        named.append(f"{k + 1}. {r['answer']} ({verdict}{doubt})")
    drawn = [f"{k + 1}. {sentence}" for k, sentence in enumerate(found["drawn"])]
    return f"Drawn: {' · '.join(drawn)}\n\nNamed: {' · '.join(named)}"


BLOCKS: dict[str, Callable[[], str | None]] = {
    "matrix": lambda: matrix_brief("matrix"),
    "matrix-evening": lambda: matrix_brief("matrix-evening"),
    "matrix-full": lambda: matrix_full("matrix"),
    "further": further,
    "codecs": codecs,
    "speed": speed,
    "serve": serve,
    "matrix-readme": matrix_readme,
    "matrix-readme-ko": lambda: matrix_readme(True),
    "planner-line": planner_line,
    "planner-line-ko": lambda: planner_line(True),
    "demo": demo,
    "demo-ko": lambda: demo(True),
    "gallery": gallery,
    "words": words,
    "sentences": sentences,
    "words-line": words_line,
    "words-line-ko": lambda: words_line(True),
    "gallery-line": gallery_line,
    "gallery-line-ko": lambda: gallery_line(True),
    **{f"real-{title}": partial(real_table, title) for title in real_report.TITLES},
    "real-codec": real_codec,
    "real-line": real_line,
    "real-line-ko": lambda: real_line(True),
    "gallery-real": gallery_real,
    "planner": planner,
    "forecasts": forecasts,
    "twins": twins,
    "dryrun": dryrun,
    "layout-table": layout_table,
}


def filled(page: Path) -> str:
    """A page's text with its blocks written anew."""
    text = page.read_text(encoding="utf-8")
    for name, make in BLOCKS.items():
        made = make()
        if made is not None:
            text = re.sub(
                rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
                lambda m, t=made: f"{m[1]}\n{t}\n\n{m[2]}",
                text,
                flags=re.S,
            )
    return text


def main() -> None:
    for name in PAGES:
        (ROOT / name).write_text(filled(ROOT / name), encoding="utf-8")


if __name__ == "__main__":
    main()
