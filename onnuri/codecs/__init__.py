"""Codecs turn media into discrete codes and back. They know nothing of language models,
vocabularies or the toy world."""
