"""Count the FLOPs of a forward pass of a model on the meta device with torch's `FlopCounterMode`.

An independent figure beside the formulas of `architecture.py`: nothing is computed, so any size
takes about a second. Knows no architecture. What depends on data (which expert is chosen, whether a
mask is empty) is answered with zero.
"""

from __future__ import annotations

import contextlib
from typing import Any

TOKENS = 64
"""tokens of the sequence that is counted, unless a state-space layer's chunk is longer"""
ANSWERS: dict[str, Any] = {
    "item": 0,
    "__bool__": False,
    "__int__": 0,
    "__float__": 0.0,
    "__index__": 0,
    "is_nonzero": False,
    "__contains__": False,
}
"""values that a tensor without data returns where only data could tell, by the method asked"""


def forward_flops(model: Any, tokens: int = TOKENS) -> float | None:
    """Return the FLOPs per token of one sequence of `tokens`, or None where the class does not run
    without data.

    The model must be on the meta device. Experts are batched products of the chosen ones, and
    attention's scores are whole: no mask saves a FLOP.
    """
    import torch
    from torch.distributions import Distribution
    from torch.utils.flop_counter import FlopCounterMode

    model.eval()
    validated = Distribution._validate_args
    counter = FlopCounterMode(display=False)
    try:
        Distribution.set_default_validate_args(False)  # checks of values, which there are none of
        for setting, value in (
            ("set_experts_implementation", "batched_mm"),
            ("set_attn_implementation", "eager"),
        ):
            with contextlib.suppress(Exception):  # a class without the choice has only one
                getattr(model, setting)(value)
        ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
        with torch.device("meta"), torch.no_grad(), _no_data(), counter:
            model(input_ids=ids, use_cache=False)
    except Exception:
        return None
    finally:
        Distribution.set_default_validate_args(validated)
    return float(counter.get_total_flops()) / tokens or None


def _no_data() -> Any:
    """Return a torch function mode in which a meta tensor's value is read as zero."""
    import torch
    from torch.overrides import TorchFunctionMode

    class NoData(TorchFunctionMode):
        """A torch function mode that answers for the values of meta tensors."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            """Return a zero-like answer for a function that reads a meta tensor's value, else call
            it."""
            name = getattr(func, "__name__", "")
            if args and isinstance(args[0], torch.Tensor) and args[0].device.type == "meta":
                if name in ANSWERS:
                    return ANSWERS[name]
                if name == "tolist":
                    return torch.zeros(args[0].shape, dtype=args[0].dtype, device="cpu").tolist()
            return func(*args, **(kwargs or {}))

    return NoData()
