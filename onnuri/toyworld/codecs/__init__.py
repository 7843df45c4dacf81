"""Codecs of the toy world: an item is a few objects, each in codes of form, colour and place."""
