"""This module says how many objects an item of the toy world's codecs has room for, and in which
order they are written."""

from typing import Literal

OBJECTS = 3
"""number of objects for which an item has codes"""
ObjectOrder = Literal["left", "diagonal"]
"""the order in which a codec encodes objects: `left` from left to right, `diagonal` by right plus
down

A sentence says which of two objects comes first only where their relation decides it. Left and
right decide `left`, but above and below do not: objects one above the other came in either order,
and a model that drew code by code mixed the two. The world's relations need one axis to exceed the
other 1.5 times, so that any of the four decides `diagonal`.
"""
