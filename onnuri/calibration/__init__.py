"""What the planner's constants come from: published and measured runs, the fit, and its validation.

Knows no recipe. The planner imports nothing of this folder: it reads the constants and the summary
of the runs (`planner/data/constants.json`, `planner/data/evidence.json`) that are written here.
"""

from pathlib import Path

DATA = Path(__file__).parent / "data"
"""published and measured rows, each with its source"""
