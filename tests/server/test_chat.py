"""What a chat answers where a modality comes to nothing."""

import asyncio
import dataclasses
import types

import numpy as np
import pytest

from onnuri.errors import MediaError
from onnuri.modality import VOXELS
from onnuri.server.conversation import Turn
from onnuri.server.events import FinalItem
from onnuri.server.openai_chat import ChatChoice, StreamedChoice, whole_choice

EMPTY = FinalItem("shape", np.zeros((VOXELS,) * 3 + (4,), np.uint8), 64)
PICTURE = FinalItem(
    "image",
    np.pad(np.zeros((64, 64, 3), np.uint8), ((32, 32), (32, 32), (0, 0)), constant_values=255),
    62,
)
BLANK = FinalItem("image", np.zeros((128, 128, 3), np.uint8), 62)


class Aside:
    async def run_in_pool(self, call, *arguments):
        return call(*arguments)


STATE = types.SimpleNamespace(service=Aside())
TURN = Turn([("text", "아무것도 없다")], "ko", True, "ko")
REQUEST = types.SimpleNamespace(audio=None)


def test_a_shape_without_surface_leaves_the_picture_beside_it():
    reply = ChatChoice(only=False)
    reply.items += [EMPTY, PICTURE]
    message = asyncio.run(whole_choice(reply, REQUEST, TURN, STATE))["message"]
    assert len(message["images"]) == 1 and "meshes" not in message
    [failure] = message["failures"]
    assert failure["type"] == "mesh_url" and "no surface" in failure["message"]
    telling = StreamedChoice(dataclasses.replace(reply, items=[]), TURN, STATE)
    [empty], [picture] = (
        asyncio.run(telling.deltas(item.modality, item)) for item in (EMPTY, PICTURE)
    )
    assert (
        "no surface" in empty["failures"][0]["message"]
        and picture["images"][0]["type"] == "image_url"
    )


@pytest.mark.parametrize("item,words", [(EMPTY, "no surface"), (BLANK, "nothing to be seen")])
def test_alone_it_is_an_error(item, words):
    reply = ChatChoice(only=True)
    reply.items.append(item)
    with pytest.raises(MediaError, match=words):
        asyncio.run(whole_choice(reply, REQUEST, TURN, STATE))
