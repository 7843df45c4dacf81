"""Faults that trainers really have had, planted in ranks alone: `python faults.py NAME FILE` verifies
a small model with one of them and writes what `verify` found, a line each. The reference process,
which forms no group, stays right."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.distributed.fsdp._fully_shard import _fsdp_collectives as collectives

from onnuri.data.loader import RowLoader
from onnuri.model import attention, balance
from onnuri.model.balance import Balance
from onnuri.parallel import apply, model, sequence_parallel, whole
from onnuri.parallel.pieces import Shards
from onnuri.planner.parallel import ParallelConfig
from onnuri.recipes.verify import _model_of
from onnuri.training import loop, step, verify
from onnuri.training.optim import Optimizers

FSDP = ParallelConfig(dp=2, sequence_parallel=False, recompute="none")
COPIES = FSDP.replace(sharding="hsdp", shard=1)
RECOMPUTED = FSDP.replace(recompute="full")
EXPERTS = FSDP.replace(ep=2)
SEQUENCES = FSDP.replace(dp=1, tp=2, sequence_parallel=True)


def after(owner, name, then):
    """Let a function be followed by `then(result, *arguments)`, whose result counts, in ranks."""
    original = getattr(owner, name)

    def changed(*arguments, **named):
        result = original(*arguments, **named)
        return then(result, *arguments) if dist.is_initialized() else result

    setattr(owner, name, changed)


def no_all_reduce():
    """Copies do not add their gradients up."""
    collectives.dist = SimpleNamespace(**{**vars(dist), "all_reduce": lambda *_, **__: None})


def doubled_expert_gradients():
    def double(result, own, *_):
        for name, p in own.network.named_parameters():
            if "experts" in name and p.grad is not None:
                p.grad.mul_(2)
        return result

    after(model.ParallelModel, "forward_backward", double)


def balance_moved_under_recomputation():
    def move(result, own, router, *_):
        if torch._C._current_graph_task_id() != -1:
            router.e_score_correction_bias.data[0] += 0.005
        return result

    after(Balance, "_count", move)


def biases_moved_alone():
    class Alone:
        is_initialized = staticmethod(lambda: False)

    balance.dist = Alone


def wrong_mask_in_packing():
    original = attention.by_sequence
    attention.by_sequence = lambda q, k, v, scaling, lengths, window: original(
        q, k, v, scaling, [sum(lengths)], window
    )


def recomputation_off():
    apply.checkpoint_activations = lambda network, how: None


def shifted_sampler():
    after(
        RowLoader,
        "_share",
        lambda rows, own, *_: range(rows.start + own.rank, rows.stop + own.rank),
    )


def one_tokens_weight_off():
    def change(row, *_):
        row.weights[0, 5] = 1.01 * row.weights[0, 5] + 0.01
        return row

    after(verify.RandomRows, "row", change)


def clipping_by_rank():
    original = step._norm_over
    step._norm_over = lambda axes, local: local if axes else original(axes, local)


def stale_weights_of_one_layer():
    original = loop.update_weights

    def update(module, *arguments):
        stale = next(p for n, p in module.named_parameters() if "layers.1." in n)
        before = stale.detach().clone()
        norm = original(module, *arguments)
        if dist.is_initialized():
            with torch.no_grad():
                stale.copy_(before)
        return norm

    loop.update_weights = update


def dropped_micro_batch():
    original = loop.RowLoader.next_step

    def drop(own):
        rows = original(own)
        return [*rows[:-1], rows[0]] if dist.is_initialized() else rows

    loop.RowLoader.next_step = drop


def decay_on_norms():
    def decay(result, own, *_):
        for optimizer in own.each:
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.1

    after(Optimizers, "__init__", decay)


def norms_of_own_tokens():
    """Norms keep the gradients of a rank's own tokens."""
    sequence_parallel.SUMMED = "replicate"


def stale_piece_in_export():
    """Rank 1 exports its shard of one weight as it was before training."""
    before = {}

    def remember(_, own, *rest):
        shards = Shards(dict(whole.named_state(own.network)), own.meshes)
        before.update({name: original(shards, name).clone() for name in shards._tensors})

    original = Shards.local
    after(model.ParallelModel, "__init__", remember)
    after(
        Shards,
        "local",
        lambda now, own, name: before[name] if dist.get_rank() and STALE in name else now,
    )


def torch_2_11():
    """No fault: experts are sharded as with a torch that has no ShardPlacementResult."""
    apply._placement_result = lambda: None


def muon():
    """No fault: matrices are updated by Muon, whose stacks may hold shards of one mesh only."""
    SETTINGS["optimizer"] = "muon"


STALE = "layers.1.mlp.down_proj"
SETTINGS = {"world_size": 2, "steps": 4, "rows": 4}
UNPACKED = ("wrong_mask_in_packing",)
"""faults that are shown by a reference that reads sequences one by one"""

FAULTS = {
    "none": (lambda: None, "axk1", EXPERTS),
    "muon": (muon, "axk1", FSDP.replace(dp=1, tp=2)),
    "muon_copies": (muon, "laptop", COPIES),
    "torch_2_11": (torch_2_11, "axk1", EXPERTS),
    "no_all_reduce": (no_all_reduce, "laptop", COPIES),
    "doubled_expert_gradients": (doubled_expert_gradients, "axk1", EXPERTS),
    "balance_moved_under_recomputation": (balance_moved_under_recomputation, "axk1", RECOMPUTED),
    "biases_moved_alone": (biases_moved_alone, "axk1", FSDP),
    "wrong_mask_in_packing": (wrong_mask_in_packing, "laptop", FSDP),
    "recomputation_off": (recomputation_off, "laptop", RECOMPUTED),
    "shifted_sampler": (shifted_sampler, "laptop", FSDP),
    "one_tokens_weight_off": (one_tokens_weight_off, "laptop", FSDP),
    "clipping_by_rank": (clipping_by_rank, "laptop", FSDP),
    "stale_weights_of_one_layer": (stale_weights_of_one_layer, "laptop", FSDP),
    "dropped_micro_batch": (dropped_micro_batch, "laptop", FSDP),
    "decay_on_norms": (decay_on_norms, "laptop", FSDP),
    "norms_of_own_tokens": (norms_of_own_tokens, "laptop", SEQUENCES),
    "stale_piece_in_export": (stale_piece_in_export, "laptop", FSDP),
}
"""what plants each fault, and the model and layout that show it"""


def main(name, file):
    plant, recipe, layout = FAULTS[name]
    plant()
    build, outline = _model_of(recipe)
    config = verify.VerifyConfig(**SETTINGS)
    found = verify.verify(recipe, build, outline, config, [layout], unpacked=name in UNPACKED)
    Path(file).write_text("\n".join(found.failures()))


if __name__ == "__main__":
    main(*sys.argv[1:])
