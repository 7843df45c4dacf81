"""Sixty sentences as a person types them, written by hand, and what each should show.

    python benchmarks/people.py [--folder MODEL] [--seeds 3]

Whoever wrote them had written for `world/wordings.py` before, and did not open it for them: some may be of a template. Whole
scenes are right when the oracle sees all that is said and nothing more; what is not said (a size, say) may be any. Writes
`benchmarks/results/people.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import onnuri
from onnuri import media
from onnuri.evaluation.matrix import OBSERVE, counted
from onnuri.evaluation.report import machine
from onnuri.evaluation.score import score, wilson
from onnuri.model.answer import drive
from onnuri.model.asking import language_asked
from onnuri.world.scene import Description, Traits

HERE = Path(__file__).parent
SAID: list[tuple[str, str]] = [
    # one thing
    ("빨간 공 하나 그려줄래?", "red sphere"),
    ("노란색 별 좀 보여줘", "yellow star"),
    ("파란 상자 그려주세요", "blue cube"),
    ("아주 큰 초록색 도넛 하나만", "green torus large"),
    ("조그만 보라색 별이요", "purple star small"),
    ("하얀 공", "white sphere"),
    ("커다란 주황색 원뿔을 하나 만들어 주세요", "orange cone large"),
    ("검정 큐브 하나 부탁해", "black cube"),
    ("분홍색 십자가 그림이 보고 싶어", "pink cross"),
    ("쪼그만 파란색 구슬 말고 공으로 하나", "blue sphere small"),
    ("나 큰 빨간 별 갖고 싶어", "red star large"),
    ("하늘색 원기둥이 있는 그림", "cyan cylinder"),
    ("작고 노란 캡슐", "yellow capsule small"),
    ("draw me a red ball", "red sphere"),
    ("a tiny yellow star pls", "yellow star small"),
    ("Could you show me a big blue box?", "blue cube large"),
    ("just one green donut, nothing else", "green torus"),
    ("i'd like to see a huge purple cone", "purple cone large"),
    ("WHITE CUBE", "white cube"),
    ("one black cylinder please", "black cylinder"),
    ("picture of a pink ball", "pink sphere"),
    ("a star, orange, small", "orange star small"),
    ("cube in red", "red cube"),
    ("can i get a little cyan capsule", "cyan capsule small"),
    ("make a yellow arch", "yellow arch"),
    ("Give me a large white ring", "white torus large"),
    # two things
    ("빨간 공 옆에 말고 위에 파란 상자 그려줘", "blue cube / red sphere / above"),
    ("왼쪽에는 노란 별, 오른쪽에는 초록 공", "yellow star / green sphere / left_of"),
    ("파란 공 오른쪽에 빨간 상자 놓아줘", "red cube / blue sphere / right_of"),
    ("검은 원뿔이 하얀 도넛 아래에 있게 해줘", "black cone / white torus / below"),
    ("보라색 별 위에 작은 주황색 공 하나 올려줘", "orange sphere small / purple star / above"),
    ("큰 빨간 상자랑 그 왼쪽에 작은 파란 공", "blue sphere small / red cube large / left_of"),
    ("초록 원기둥 밑에 분홍 별", "pink star / green cylinder / below"),
    ("위에는 하얀 공 아래에는 까만 상자", "white sphere / black cube / above"),
    ("노란 도넛의 오른편에 파란 원뿔이 보이는 그림", "blue cone / yellow torus / right_of"),
    ("빨강 별이 왼쪽, 파랑 공이 오른쪽에 있는 그림 부탁드려요", "red star / blue sphere / left_of"),
    ("하늘색 공 아래쪽에 주황색 큐브를 그려라", "orange cube / cyan sphere / below"),
    ("공 두 개: 빨간 거 왼쪽, 파란 거 오른쪽", "red sphere / blue sphere / left_of"),
    ("흰색 십자가 왼편에 보라 캡슐이 있어", "purple capsule / white cross / left_of"),
    ("초록 별 하나, 그 위에 빨간 공 하나", "red sphere / green star / above"),
    ("작은 노란 공이랑 큰 파란 공이 있는데 노란 게 위야", "yellow sphere small / blue sphere large / above"),
    ("그림 하나 그려줘. 빨간 원뿔이 있고 그 오른쪽에 초록 상자가 있어.", "green cube / red cone / right_of"),
    ("put a red ball on top of a blue box", "red sphere / blue cube / above"),
    ("a green star on the left and a yellow ball on the right", "green star / yellow sphere / left_of"),
    ("blue cone under a white donut", "blue cone / white torus / below"),
    ("I want a small red cube to the right of a big purple ball", "red cube small / purple sphere large / right_of"),
    ("there's an orange cylinder, and above it a pink star", "pink star / orange cylinder / above"),
    ("black box left, white ball right", "black cube / white sphere / left_of"),
    ("draw two things: a cyan ring and, below it, a red cone", "red cone / cyan torus / below"),
    ("yellow star beneath green box", "yellow star / green cube / below"),
    ("Please sketch a purple ball with a blue star to its left", "blue star / purple sphere / left_of"),
    ("a red donut floating over a black cylinder", "red torus / black cylinder / above"),
    ("on the right of the white cross there is a green capsule", "green capsule / white cross / right_of"),
    ("show a tiny orange ball sitting below a large blue star", "orange sphere small / blue star large / below"),
    ("a pink cube, left of it a yellow cone", "yellow cone / pink cube / left_of"),
    ("make it a blue ball above a red ball", "blue sphere / red sphere / above"),
    ("can you do a white star over a purple box", "white star / purple cube / above"),
    ("red arch at the right side of a cyan cube", "red arch / cyan cube / right_of"),
    ("big green ball next to, on the left of, a little black cone", "green sphere large / black cone small / left_of"),
    ("two objects, a yellow ring up top and an orange ball at the bottom", "yellow torus / orange sphere / above"),
]


def description(means: str) -> tuple[Description, frozenset[tuple[int, Any, int]]]:
    """Return what "red sphere small / blue cube / left_of" asks for: things, and the relation of the first to the second."""
    *things, relation = means.split(" / ") if " / " in means else (means, "")
    made = []
    for thing in things:
        color, solid, *size = thing.split()
        made.append(Traits(solid=solid, color=color, size=size[0] if size else None, motion=None))
    asked: frozenset[tuple[int, Any, int]] = frozenset({(0, relation, 1)} if relation else ())
    return Description(things=tuple(made), relations=asked), asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=onnuri.WEIGHTS / "laptop")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=HERE / "results" / "people.json")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    model, attributes = onnuri.load(settings.folder), counted("text", "image")
    rows: list[dict[str, Any]] = []
    for said, means in SAID:
        wanted, asked = description(means)
        steps = [model.answers.answer("image", [("text", said)], language_asked(said), model.sampling, seed)
                 for seed in range(settings.seeds)]
        pictures = model.codecs["image"].decode_batch(drive(model.engine, steps))
        right = [score(wanted, OBSERVE["image"](picture), attributes, asked).scene for picture in pictures]
        rows.append({"said": said, "means": means, "right": int(sum(right)), "of": settings.seeds})
        print(f"{sum(right)} of {settings.seeds}  {said}  [{means}]", flush=True)
    found: dict[str, Any] = {"machine": machine(), "rows": rows}
    for n in (1, 2):
        held = [row for row in rows if len(row["means"].split(" / ")) == (1 if n == 1 else 3)]
        whole, of = (sum(row[k] for row in held) for k in ("right", "of"))
        found[f"{n} objects"] = {"sentences": len(held), "scenes": whole / of, "interval": list(wilson(whole, of))}
        print(f"{n} objects: {whole / of:.0%} of {of}")
    updown = [row for row in rows if row["means"].endswith(("above", "below"))]
    found["above and below"] = {"sentences": len(updown), "scenes": float(np.mean([row["right"] / row["of"] for row in updown]))}
    print(f"above and below: {found['above and below']['scenes']:.0%}")
    media.write_json(found, settings.json, indent=1)


if __name__ == "__main__":
    main()
