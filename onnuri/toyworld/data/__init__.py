"""This package holds the data of the toy world: pools for its codecs, and its scenes as codes and
sequences of codes."""
