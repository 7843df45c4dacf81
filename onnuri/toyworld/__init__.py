"""The world: one scene renders to all five media, deterministically from a seed. The laptop's
data."""
