"""This package evaluates any model: it holds confidence intervals and the description of the
machine of a measurement. The toy world's matrix and oracles are in `toyworld/oracles/`."""
