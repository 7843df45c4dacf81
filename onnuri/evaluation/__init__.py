"""Evaluation of any model: intervals, and the machine of a measurement. The toy world's matrix and
oracles are in `toyworld/oracles/`."""
