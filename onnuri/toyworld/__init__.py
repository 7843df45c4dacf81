"""This package is the toy world, the laptop's data: one scene renders to all five modalities,
deterministically from a seed."""
