"""Evaluation: the any-to-any matrix, its oracles, the codecs' quality cards, reports. Nothing here
is trained with the model."""
