"""This package holds the codecs of the toy world, in which an item is a few objects, each in codes
of form, colour and place."""
