"""What a step does, counted and timed without training: a dry run of a rank, a run's forecast.

Knows no recipe. It stands above `training/`, whose very step is traced, and above the planner,
beside whose estimates the counts are set.
"""
