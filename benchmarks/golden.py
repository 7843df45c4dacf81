"""Golden figures: what a rebuilding of the code must leave as it was. Writes or checks
`benchmarks/results/golden.json`.

    python benchmarks/golden.py write                     # the figures of this commit, on this machine
    python benchmarks/golden.py check                     # prints every difference; status 1 where there is one
    python benchmarks/golden.py check --only dry_runs answers

planner    every published run's predicted speed with its source, and with its model, left out, and
with none left out dry_runs   bytes, FLOPs and collectives of rank 0 of the five systems' own steps
matrix     `onnuri evaluate matrix --items 50`: every cell's figures curve      losses of 200 steps
of the laptop's `smoke` preset, from rendered scenes on answers    codes of 20 greedy answers, one
for each pair of different media

The curve and what is drawn from logits hold on one machine only: `write` on the commit before where
the machine is another. Takes about fifteen minutes.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import tyro

RESULT = Path(__file__).parent / "results" / "golden.json"
TOLERANCE = {"planner": 1e-9, "dry_runs": 0.0, "matrix": 1e-9, "curve": 1e-6, "answers": 0.0}
"""largest difference of two numbers, absolute, by part"""
CURVE_STEPS = 200
MATRIX_ITEMS = 50
Part = Literal["planner", "dry_runs", "matrix", "curve", "answers"]


def planner() -> dict[str, Any]:
    """Return logarithms of tokens per second and GPU by the row's id: [source left out, model left
    out, none]."""
    import planner_cv

    from onnuri.calibration import measured, runs
    from onnuri.calibration.fit import FURTHER, PUBLISHED, fit, log_speed, stack, usable

    evidence = stack(
        [row for path in (PUBLISHED, FURTHER, measured.FILE) for row in usable(runs.read(path))]
    )
    whole = fit(evidence)
    keys = (
        [runs.repository(row) for row in evidence.rows],
        [planner_cv.model(row) for row in evidence.rows],
    )
    predictions = [planner_cv.left_out(evidence, planner_cv.folds(key), whole) for key in keys]
    predictions.append(log_speed(evidence, whole))
    return {row["id"]: [float(p[i]) for p in predictions] for i, row in enumerate(evidence.rows)}


def dry_runs() -> dict[str, Any]:
    """Return what `onnuri token_constraint dry-run` writes for each system, but for the seconds it took."""
    from onnuri import recipes

    figures = {}
    for name in recipes.NAMES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dry_run.json"
            _onnuri("plan", "dry-run", name, "--json", str(path))
            figures[name] = _without(json.loads(path.read_text(encoding="utf-8")), "seconds")
    return figures


def matrix() -> dict[str, Any]:
    """Return what `onnuri evaluate matrix` writes, but for machine and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.json"
        _onnuri("evaluate", "matrix", "--items", str(MATRIX_ITEMS), "--json", str(path))
        return _without(json.loads(path.read_text(encoding="utf-8")), "seconds", "machine")  # type: ignore[no-any-return]


def curve() -> list[float]:
    """Return the losses of the first stage of `smoke`, made longer: data, codecs and model come
    from nothing."""
    import torch

    from onnuri.recipes import laptop
    from onnuri.training import loop

    losses: list[float] = []

    class Unrounded(loop.MetricsLog):
        """The log of a run rounds to six digits."""

        def add(self, seconds: float, figures: Any) -> None:
            losses.append(float(figures["loss"].mean))
            super().add(seconds, figures)

    settings = laptop.smoke()
    first = settings.model[0]
    longer = first.loop.replace(steps=CURVE_STEPS, log_every=1)
    settings = settings.replace(model=(first.replace(loop=longer),))
    torch.set_num_threads(settings.workers)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for stage in (laptop.pools, laptop.codecs, laptop.table):
            stage(settings, out)
        loop.MetricsLog = Unrounded  # type: ignore[misc]
        laptop.model(settings, out)
    return losses


def answers() -> dict[str, list[int]]:
    """Return the codes that follow from each modality in each other one, of a scene that training
    cannot reach."""
    import onnuri
    from onnuri.modality import LANGUAGES, MEDIA
    from onnuri.model.answer import run_pipelines
    from onnuri.toyworld.oracles.matrix import render
    from onnuri.toyworld.scene import sample_scene

    model = onnuri.load()
    greedy = {
        modality: sampling.replace(temperature=0.0) for modality, sampling in model.sampling.items()
    }
    codes = {}
    for i, target in enumerate(MEDIA):
        for k in range(1, len(MEDIA)):
            source, language = MEDIA[(i + k) % len(MEDIA)], LANGUAGES[(i + k) % 2]
            item = render(sample_scene(k, "held_out"), source, language, "held_out")
            steps = model.answers.answer(target, [(source, item)], language, greedy)
            codes[f"{source} to {target}"] = [
                int(code) for code in run_pipelines(model.engine, [steps])[0]
            ]
    return codes


PARTS = {
    "planner": planner,
    "dry_runs": dry_runs,
    "matrix": matrix,
    "curve": curve,
    "answers": answers,
}


def _onnuri(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-c", "from onnuri.cli import main; main()", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _without(value: Any, *names: str) -> Any:
    """Return JSON without the fields of some names, at any depth."""
    if isinstance(value, dict):
        return {key: _without(each, *names) for key, each in value.items() if key not in names}
    if isinstance(value, list):
        return [_without(each, *names) for each in value]
    return value


def differences(before: Any, after: Any, tolerance: float, path: str = "") -> list[str]:
    """Return a line for every place in which two JSON values differ by more than a tolerance.

    A value that is no number differs unless it is equal; so does one that only one side has.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        lines = []
        for key in sorted({*before, *after}):
            here = f"{path}/{key}"
            if key in before and key in after:
                lines += differences(before[key], after[key], tolerance, here)
            else:
                lines.append(f"{here}: only {'before' if key in before else 'after'}")
        return lines
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            line
            for k, pair in enumerate(zip(before, after, strict=True))
            for line in differences(*pair, tolerance, f"{path}/{k}")
        ]
    if _is_number(before) and _is_number(after):
        same = abs(before - after) <= tolerance or (math.isnan(before) and math.isnan(after))
    else:
        same = before == after and type(before) is type(after)
    return [] if same else [f"{path}: {_short(before)} was, {_short(after)} is"]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def figures(part: Part) -> Any:
    """Return a part's figures, made in a process of its own: a dry run shares none with what
    computes."""
    made = subprocess.run(
        [sys.executable, __file__, "one", "--only", part],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(made.stdout.splitlines()[-1])


def main(
    what: tyro.conf.Positional[Literal["write", "check", "one"]], only: tuple[Part, ...] = ()
) -> None:
    """Write the golden figures, or check that they are what they were. `--only`: some parts."""
    parts: tuple[Part, ...] = only or tuple(PARTS)  # type: ignore[arg-type]
    if what == "one":
        print(json.dumps(PARTS[parts[0]]()))
        return
    try:
        golden = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    except ValueError:
        print(
            f"{RESULT}: is no JSON; take it from git again, or delete it and run `golden.py write`",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    if what == "check" and (missing := [part for part in parts if part not in golden]):
        print(
            f"{RESULT}: has no {', '.join(missing)}; run `golden.py write` on the commit before",
            file=sys.stderr,
        )
        raise SystemExit(2)
    changed = 0
    for part in parts:
        now = figures(part)
        if what == "write":
            golden[part] = now
            print(f"{part}: written", flush=True)
            continue
        lines = differences(golden[part], now, TOLERANCE[part])
        changed += len(lines)
        print(
            "\n".join([f"{part}: {len(lines)} differences" if lines else f"{part}: equal", *lines]),
            flush=True,
        )
    if what == "write":
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RESULT.parent
        ).stdout
        about = {"commit": commit.strip(), "machine": platform.processor() or platform.machine()}
        RESULT.write_text(json.dumps(golden | about) + "\n", encoding="utf-8")
    raise SystemExit(bool(changed))


if __name__ == "__main__":
    tyro.cli(main)
