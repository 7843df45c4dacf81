"""How many tokens an answer took, in every API's fields. Knows no route."""

from __future__ import annotations

from collections.abc import Sequence

from onnuri.model.answer import Context
from onnuri.server.errors import JSON
from onnuri.server.events import FinalItem
from onnuri.server.schemas import MODALITY

NAMES = {modality: f"{name}_tokens" for name, modality in MODALITY.items()}


def token_counts(read: int, written: int, names: tuple[str, str] = ("input", "output")) -> JSON:
    """Return tokens that were read and written, and their sum, under names of an API."""
    reading, writing = names
    return {f"{reading}_tokens": read, f"{writing}_tokens": written, "total_tokens": read + written}


class TokenUsage:
    """Tokens by modality; boundaries count as text."""

    def __init__(self, context: Context, items: Sequence[FinalItem]) -> None:
        self.read = {name: context.given.get(modality, 0) for modality, name in NAMES.items()}
        self.read["text_tokens"] += max(0, len(context.ids) - sum(self.read.values()))
        self.written = dict.fromkeys(NAMES.values(), 0)
        for item in items:
            self.written[NAMES[item.modality]] += item.tokens
        self.inputs, self.outputs = sum(self.read.values()), sum(self.written.values())
        reused = max((item.reused for item in items), default=0)
        self.cached = min(reused, self.inputs)

    @property
    def total(self) -> int:
        """Return all tokens."""
        return self.inputs + self.outputs

    def chat(self) -> JSON:
        """Return them in the fields of `/v1/chat/completions`."""
        return {
            **token_counts(self.inputs, self.outputs, ("prompt", "completion")),
            "prompt_tokens_details": {"cached_tokens": self.cached, **self.read},
            "completion_tokens_details": {"reasoning_tokens": 0, **self.written},
        }

    def responses(self) -> JSON:
        """Return them in the fields of `/v1/responses`."""
        cached = {"cache_write_tokens": 0, "cached_tokens": self.cached}
        return {
            **token_counts(self.inputs, self.outputs),
            "input_tokens_details": {**cached, **self.read},
            "output_tokens_details": {"reasoning_tokens": 0, **self.written},
        }

    def images(self) -> JSON:
        """Return them in the fields of `/v1/images`."""
        details = {name: self.read[name] for name in ("text_tokens", "image_tokens")}
        return {**token_counts(self.inputs, self.outputs), "input_tokens_details": details}
