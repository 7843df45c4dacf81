"""Codecs: media to discrete codes and back. They know nothing of language models, vocabularies or
the world."""
