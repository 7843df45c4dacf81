"""The number of tokens that a request and its answer took, in every API's fields. Knows no
route."""

from __future__ import annotations

from collections.abc import Sequence

from onnuri.model.answer import Context
from onnuri.server.errors import JSON
from onnuri.server.events import FinalItem
from onnuri.server.schemas import MODALITY

NAMES = {modality: f"{name}_tokens" for name, modality in MODALITY.items()}


def token_counts(inputs: int, outputs: int, names: tuple[str, str] = ("input", "output")) -> JSON:
    """Return the number of input and output tokens, and their sum, under an API's two names for
    them."""
    reading, writing = names
    return {
        f"{reading}_tokens": inputs,
        f"{writing}_tokens": outputs,
        "total_tokens": inputs + outputs,
    }


class TokenUsage:
    """The tokens of a request and its answer by modality; special tokens count as text."""

    def __init__(self, context: Context, items: Sequence[FinalItem]) -> None:
        """Count the tokens of the model's context and of the items of the answer."""
        self.input_counts = {
            name: context.given.get(modality, 0) for modality, name in NAMES.items()
        }
        self.input_counts["text_tokens"] += max(
            0, len(context.ids) - sum(self.input_counts.values())
        )
        self.output_counts = dict.fromkeys(NAMES.values(), 0)
        for item in items:
            self.output_counts[NAMES[item.modality]] += item.tokens
        self.inputs, self.outputs = (
            sum(self.input_counts.values()),
            sum(self.output_counts.values()),
        )
        reused_tokens = max((item.reused for item in items), default=0)
        self.cached = min(reused_tokens, self.inputs)

    @property
    def total(self) -> int:
        """Return the number of input and output tokens together."""
        return self.inputs + self.outputs

    def chat(self) -> JSON:
        """Return the usage in the fields of `/v1/chat/completions`."""
        return {
            **token_counts(self.inputs, self.outputs, ("prompt", "completion")),
            "prompt_tokens_details": {"cached_tokens": self.cached, **self.input_counts},
            "completion_tokens_details": {"reasoning_tokens": 0, **self.output_counts},
        }

    def responses(self) -> JSON:
        """Return the usage in the fields of `/v1/responses`."""
        cached = {"cache_write_tokens": 0, "cached_tokens": self.cached}
        return {
            **token_counts(self.inputs, self.outputs),
            "input_tokens_details": {**cached, **self.input_counts},
            "output_tokens_details": {"reasoning_tokens": 0, **self.output_counts},
        }

    def images(self) -> JSON:
        """Return the usage in the fields of `/v1/images`."""
        details = {name: self.input_counts[name] for name in ("text_tokens", "image_tokens")}
        return {**token_counts(self.inputs, self.outputs), "input_tokens_details": details}
