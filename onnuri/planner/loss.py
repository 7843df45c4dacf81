"""Estimate the loss of a size of model and its tokens, as a range: published laws, which differ,
and what they leave open.

Knows no data. A law's nats per token hold for its own text and tokenizer: compare sizes with them,
not models of others.
"""

from __future__ import annotations

from onnuri.config import Config
from onnuri.planner.interval import Interval, spread


class Law(Config):
    """A scaling law L = floor + a / N^alpha + b / D^beta, with N parameters and D tokens, in nats
    per token."""

    floor: float
    a: float
    alpha: float
    b: float
    beta: float

    def loss(self, params: float, tokens: float) -> float:
        """Return the nats per token of a dense model of `params` after `tokens`."""
        return self.floor + self.a / params**self.alpha + self.b / tokens**self.beta

    def optimal(self, flops: float) -> tuple[float, float]:
        """Return the parameters and tokens of the least loss for 6 · N · D FLOPs (arXiv 2203.15556,
        equation 4)."""
        ratio = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
        params = ratio * (flops / 6) ** (self.beta / (self.alpha + self.beta))
        return params, flops / 6 / params


HOFFMANN = Law(floor=1.6934, a=406.4, alpha=0.3392, b=410.7, beta=0.2849)
"""arXiv 2203.15556, approach 3 (recalled from the copy in arXiv 2404.10102, table 1)"""
EPOCH = Law(floor=1.8172, a=482.01, alpha=0.3478, b=2085.43, beta=0.3658)
"""arXiv 2404.10102, a refit to the same runs; standard error of the floor 0.03"""
LAW = Interval(low=0.0, mid=0.5, high=1.0)
"""how far to go from Hoffmann's law (0) to Epoch's (1): neither is known to be right beyond what
they were fitted to, 16B parameters and 320B tokens. Their spread there and the floor's is all that
the range holds of going further"""
FEWEST = 1.0
"""tokens per effective parameter below which the laws do not hold: of the 245 runs that Epoch read
off, the 234 at or above lie -0.04 to +0.06 nats from the middle of both laws, the 11 below 0.03 to
1.34 above it (epoch-research/analyzing-chinchilla@9225884, data/svg_extracted_data.csv)"""
FLOOR = Interval(low=-0.03 * 1.28, mid=0.0, high=0.03 * 1.28)
"""nats by which the floor may be wrong: Epoch's standard error"""
SPARSITY = Interval(low=0.35, mid=0.5, high=0.65)
"""A mixture of experts is worth active · (total / active)^x dense parameters. High: 17.5B-A0.855B
equalled 6.1B dense at the same tokens (arXiv 2507.17702). Middle: the geometric mean, a rule of
thumb without a source. Low: assumed, as far below. The joint law of arXiv 2502.05172 would be
better; its constants were not obtained."""
MEDIA = Interval(low=0.0, mid=0.5, high=1.0)
"""how much a token of another modality helps the loss on text, as a share of a text token: assumed,
from none to all"""
INPUTS = (LAW, FLOOR, SPARSITY, MEDIA)
"""the unknowns of `loss_at`, in its order"""
EVIDENCE = (
    "arXiv 2203.15556 and 2404.10102: two fits of one law",
    "arXiv 2507.17702: worth of sparse parameters",
    "assumed: worth of media tokens for text",
)
TOKENS_PER_ACTIVE = {
    "Llama 3.1 8B": 1900,
    "Solar Open 100B": 1640,
    "Kimi K2": 475,
    "DeepSeek-V3": 400,
    "A.X K1": 300,
}
"""tokens trained per active parameter, of real runs (`facts/scaling.md`), to show beside advice"""


def optimal_sizes(flops: float) -> dict[str, tuple[float, float]]:
    """Return the dense parameters and tokens that each law calls optimal for a budget of FLOPs.

    DeepSeek's law counts FLOPs per token outside the embedding, 6 per parameter: 0.1715 · C^0.5243
    of them on 5.8316 · C^0.4757 tokens (arXiv 2401.02954, recalled).
    """
    return {
        "Hoffmann": HOFFMANN.optimal(flops),
        "Epoch": EPOCH.optimal(flops),
        "DeepSeek": (0.1715 * flops**0.5243 / 6, 5.8316 * flops**0.4757),
    }


def effective_params(total: float, active: float, sparsity: float = SPARSITY.mid) -> float:
    """Return the number of dense parameters that a mixture of experts is worth."""
    return active * (total / active) ** sparsity


def loss_at(
    total: float,
    active: float,
    text: float,
    media: float,
    law: float,
    floor: float,
    sparsity: float,
    worth: float,
) -> float:
    """Return the nats per text token with a value for every unknown; `text` and `media` are tokens
    trained."""
    size, tokens = effective_params(total, active, sparsity), max(text + worth * media, 1.0)
    return floor + HOFFMANN.loss(size, tokens) * (1 - law) + EPOCH.loss(size, tokens) * law


def holds(total: float, active: float, tokens: float) -> bool:
    """Return whether a model has trained on enough tokens per effective parameter for the laws of
    loss to hold."""
    return tokens >= FEWEST * effective_params(total, active)


def expected_loss(total: float, active: float, text: float, media: float = 0.0) -> Interval | None:
    """Return the range of the loss on text, in nats per token, after `text` tokens of text and
    `media` of other media; None where no law holds."""
    if not holds(total, active, text + media):
        return None
    return spread(lambda *unknown: loss_at(total, active, text, media, *unknown), *INPUTS)


def by_tokens(total: float, active: float, tokens: Interval, media: float) -> Interval | None:
    """Return the range of the loss on text where the number of tokens has a range too; `media` is
    their share of other media. None where no law holds at the middle."""
    if not holds(total, active, tokens.mid):
        return None
    return spread(
        lambda t, *unknown: loss_at(total, active, t * (1 - media), t * media, *unknown),
        tokens,
        *INPUTS,
    )
