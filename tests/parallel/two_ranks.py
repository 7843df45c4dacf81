"""One of two real processes over gloo: `python two_ranks.py RANK FOLDER`. Reads cases, writes what
each measured.

A case is a family's values, a layout and how tokens reach experts. With "learn" measured are, in 32
bits, loss over all ranks and norm of all gradients of two steps, and the weights after them; with
"streams" what stands between the blocks; else every collective of a step in 16 bits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from onnuri.inference.hf_forward import head
from onnuri.model.backbone import build_hf_model
from onnuri.model.cross_entropy import cross_entropy
from onnuri.model.loss import LossParts
from onnuri.parallel.apply import parallelize
from onnuri.parallel.model import ParallelModel
from onnuri.planner.parallel import ParallelConfig
from onnuri.profile.dryrun import adamw_with_state, prepare_for_trace, trace_step
from onnuri.training.optim import Optimizers
from onnuri.training.step import update_weights

TOKENS = 24


def batch(rows):
    ids = torch.randint(0, 60, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    return ids[rows]


def steps(trainee, rows, ranks):
    """Losses and norms of two steps."""
    optimizer = Optimizers(trainee, False, 1e-2, 0.1, (0.9, 0.95))
    found = []
    for _ in range(2):
        loss = trainee(batch(rows))
        (loss.sum / (loss.weight * ranks)).backward()
        norm = update_weights(trainee, optimizer, 1e-2, 0.5)
        found.append([float(loss.mean.detach()), float(norm)])
    return found


def weights(trainee):
    """Sums of every parameter's absolute values."""
    return {
        n: float((p.full_tensor() if isinstance(p, DTensor) else p).detach().double().abs().sum())
        for n, p in trainee.named_parameters()
    }


def built(case):
    torch.manual_seed(0)
    return build_hf_model(case["family"], case["values"])


def weighed(network, rows):
    """The loss of a row [1, T] whose targets weigh differently, in 64 bits."""
    ids, weights = rows
    hidden = network.model(input_ids=ids, use_cache=False).last_hidden_state[0, :-1]
    return LossParts(cross_entropy(hidden, head(network), ids[0, 1:], weights), weights.sum())


def weighed_row(k):
    """Row k of a stream: of its own ids, and some three times the weight of the next."""
    draw = torch.Generator().manual_seed(100 + k)
    return torch.randint(0, 60, (1, TOKENS), generator=draw), torch.rand(
        TOKENS - 1, generator=draw, dtype=torch.float64
    ) * (1 + 2 * (k % 2))


def weighed_steps(case, rows_of, layout=None):
    """Norms and weights of three steps; `rows_of(step)` are a rank's micro-batches."""
    network = built(case).double()
    network.config._experts_implementation = "eager"  # grouped products are of 32 bits at most
    model = ParallelModel(network, lambda row: (weighed(network, row), {}), layout)
    optimizer = Optimizers(model.root, False, 1e-2, 0.1, (0.9, 0.95))
    norms = []
    for step in range(3):
        rows = [weighed_row(k) for k in rows_of(step)]
        total = model.total_weight([weights.sum() for _, weights in rows])
        for row in rows:
            model.forward_backward(row, total)
        norms.append(float(update_weights(model.root, optimizer, 1e-2, 0.5)))
    return {"norms": norms, "weights": weights(model.root)}


def packed(case, layout, rank):
    return weighed_steps(case, lambda step: [2 * step + rank], layout)


ROW = 23
"""tokens that two ranks do not share evenly"""


def between_blocks(case, layout=None):
    """The tokens of every layer's and norm's input and output on this rank, and the logits, with
    gradients and without."""
    network = built(case).double()
    network.config._experts_implementation = "eager"
    if layout:
        parallelize(network, layout, dtype=None)
    tokens = {}

    def note(name):
        return lambda _, inputs, output: tokens.update(
            {name: [inputs[0].shape[1], output.shape[1]]}
        )

    for name, module in network.model.named_modules():
        if name.rpartition(".")[2].isdecimal() or name.endswith("layernorm"):
            module.register_forward_hook(note(name))
    ids = batch(slice(0, 1))[:, :ROW]
    trained = network(input_ids=ids, use_cache=False).logits
    with torch.no_grad():
        read = network(input_ids=ids, use_cache=False).logits
    return {"tokens": tokens, "trained": trained.tolist(), "read": read.tolist()}


def measure(case, rank):
    if case.get("streams"):
        return between_blocks(case, ParallelConfig.from_json(case["layout"]))
    if case.get("packed"):
        return packed(case, ParallelConfig.from_json(case["layout"]), rank)
    return (learned if case["learn"] else counted)(
        case, ParallelConfig.from_json(case["layout"]), rank
    )


def learned(case, layout, rank):
    trainee = prepare_for_trace(built(case), fused=False)
    parallelize(trainee.network, layout, trainee, dtype=None, dispatch=case["dispatch"])
    found = steps(trainee, slice(rank, rank + 1) if layout.dp == 2 else slice(0, 2), layout.dp)
    losses = torch.tensor([loss for loss, _ in found])
    dist.all_reduce(losses)
    return {
        "losses": (losses / 2).tolist(),
        "norms": [norm for _, norm in found],
        "weights": weights(trainee),
    }


def counted(case, layout, rank):
    trainee = prepare_for_trace(built(case), fused=False)
    views = parallelize(trainee.network, layout, trainee, dispatch=case["dispatch"])
    made, _ = trace_step(trainee, adamw_with_state(trainee), batch(slice(0, 1)), layout, views)
    held = sum(
        (p.to_local() if isinstance(p, DTensor) else p).numel() for p in trainee.parameters()
    )
    return {
        "collectives": [c.to_json() for c in made.collectives],
        "held": held,
        "at_peak": made.at_peak,
        "flops": made.flops,
    }


def main(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {
        name: measure(case, rank)
        for name, case in json.loads((folder / "cases.json").read_text()).items()
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
