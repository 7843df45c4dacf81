"""This package counts and times what a training step does without training: a dry run of one rank,
and a forecast of a run.

It knows no recipe. It imports `training/`, whose own step is traced, and the planner, with whose
estimates the counts are compared.
"""
