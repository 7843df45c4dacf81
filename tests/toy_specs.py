"""The specs of the laptop's codecs with a small tokenizer, for tests that need no networks."""

from onnuri.codecs.audio import audio_spec
from onnuri.codecs.text import text_spec
from onnuri.toyworld.codecs.mesh import shape_spec
from onnuri.toyworld.codecs.visual import image_spec, video_spec


def toy_specs(text_codes: int = 300):
    """In the order of a model's layout."""
    return [text_spec(text_codes), image_spec(), audio_spec(), video_spec(), shape_spec()]
