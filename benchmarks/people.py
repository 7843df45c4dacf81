"""Sentences as people type them, and what each should show: whole scenes drawn from them.

    python benchmarks/people.py [--sentences people|strangers|fresh|FILE] [--folder MODEL] [--seeds 3]

`sentences/people.json`: sixty, written by someone who had written for `toyworld/wordings.py` before
and did not open it for them. `sentences/strangers.json`: 280, by two who had never seen the
project; they showed which kinds training lacked (session 12), so they are no test any more.
`sentences/fresh.json`: 120, by a third, read by nobody here before they were measured. Whole scenes
are right when the oracle sees all that is said and nothing more; what is not said (a size, a
colour, a place) may be any. Writes `results/NAME.json`; of a file of your own, only prints.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import onnuri
from onnuri.errors import OnnuriError
from onnuri.evaluation.interval import wilson
from onnuri.evaluation.machine import machine
from onnuri.files import check_place, write_json
from onnuri.model.answer import run_pipelines
from onnuri.model.asking import language_asked
from onnuri.toyworld.oracles.matrix import OBSERVE, counted
from onnuri.toyworld.oracles.score import score
from onnuri.toyworld.scene import COLORS, RELATIONS, SIZES, SOLIDS, Description, Traits

HERE = Path(__file__).parent
GROUPS: dict[str, Callable[[str], bool]] = {
    "1 objects": lambda means: " / " not in means and not means.endswith(("x2", "x3")),
    "2 objects": lambda means: " / " in means and not means.endswith("none"),
    "above and below": lambda means: means.endswith(("above", "below")),
    "left and right": lambda means: means.endswith(("left_of", "right_of")),
    "without a place": lambda means: means.endswith("none"),
    "alike": lambda means: means.endswith(("x2", "x3")),
}
"""which sentences are told together, by what they mean"""


def description(means: str) -> tuple[Description, frozenset[tuple[int, Any, int]]]:
    """Return what "red sphere small / any cube / left_of" or "red sphere x2" asks for: things, and
    the relation of the first to the second ("none": of neither). Raises ValueError for what the
    world does not have."""
    *things, relation = means.split(" / ") if " / " in means else (means, "none")
    traits = []
    for thing in things:
        color, solid, *rest = thing.split()
        size = next((word for word in rest if word[0] != "x"), None)
        count = next((int(word[1:]) for word in rest if word[0] == "x"), 1)
        if solid not in SOLIDS or color not in ("any", *COLORS) or size not in (None, *SIZES):
            raise ValueError(f"{thing!r} is no thing of the world")
        traits += [
            Traits(solid=solid, color=None if color == "any" else color, size=size, motion=None)
        ] * count
    if relation not in ("none", *RELATIONS) or (relation != "none" and len(traits) != 2):
        raise ValueError(f"{relation!r} is no relation of two things")
    asked: frozenset[tuple[int, Any, int]] = frozenset(
        {(0, relation, 1)} if relation != "none" else ()
    )
    return Description(things=tuple(traits), relations=asked), asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sentences",
        default="people",
        help="people, strangers, fresh, or a file of [{said, means}]",
    )
    parser.add_argument("--folder", type=Path, default=onnuri.WEIGHTS / "laptop")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--json", type=Path, help="default: results/NAME.json; of a file of your own, none"
    )
    settings = parser.parse_args()
    if settings.seeds < 1:
        parser.error(f"--seeds {settings.seeds}: is no number of pictures; give 1 or more")
    own = HERE / "sentences" / f"{settings.sentences}.json"
    path = own if own.exists() else Path(settings.sentences)
    out = settings.json or (HERE / "results" / own.name if own.exists() else None)
    try:
        sentences = [
            (row["said"], row["means"], *description(row["means"]))
            for row in json.loads(path.read_text(encoding="utf-8"))
        ]
        if not sentences:
            raise ValueError("empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f" ({error})" if isinstance(error, ValueError) else ""
        parser.error(
            f"{path}: is no list of {{said, means}}{why}; give people, strangers, fresh or such a file"
        )
    try:
        check_place(out)
        model = onnuri.load(settings.folder)
    except OnnuriError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    attributes = counted("text", "image")
    rows: list[dict[str, Any]] = []
    for said, means, wanted, asked in sentences:
        steps = [
            model.answers.answer(
                "image", [("text", said)], language_asked(said), model.sampling, seed
            )
            for seed in range(settings.seeds)
        ]
        pictures = model.codecs["image"].decode_batch(run_pipelines(model.engine, steps))
        right = [
            score(wanted, OBSERVE["image"](picture), attributes, asked).scene
            for picture in pictures
        ]
        rows.append({"said": said, "means": means, "right": int(sum(right)), "of": settings.seeds})
        print(f"{sum(right)} of {settings.seeds}  {said}  [{means}]", flush=True)
    report: dict[str, Any] = {"machine": machine(), "rows": rows}
    for name, belongs in GROUPS.items():
        held = [row for row in rows if belongs(row["means"])]
        whole, of = (sum(row[k] for row in held) for k in ("right", "of"))
        if held:
            report[name] = {
                "sentences": len(held),
                "scenes": whole / of,
                "interval": list(wilson(whole, of)),
            }
            print(f"{name}: {whole / of:.0%} of {of}")
    if out:
        write_json(report, out, indent=1)


if __name__ == "__main__":
    main()
