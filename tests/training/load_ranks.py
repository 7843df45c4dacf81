"""One of some real processes over gloo: `python load_ranks.py RANK RANKS FOLDER`. Loads every case
of FOLDER/cases.json, a layout, from FOLDER/NAME, and compares each tensor, gathered, with the whole
model's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from onnuri.model.base import has_weights, load_base
from onnuri.parallel import fill
from onnuri.parallel.apply import parallelize
from onnuri.parallel.fill import give_memory
from onnuri.parallel.whole import gather
from onnuri.planner.parallel import ParallelConfig
from onnuri.training import load

SEED = 5
CPU = torch.device("cpu")


def loaded(folder, layout):
    """A folder's model, sharded by a layout or whole, and its loader."""
    network = load_base(folder, device="meta", dtype=torch.float32)
    loader = load.Loader(folder, network, SEED)
    meshes = None
    if layout:
        meshes = parallelize(network, ParallelConfig.from_json(layout), dtype=None)
    give_memory(network, CPU)
    loader.load(network, meshes)
    return network, loader


def tensors(network):
    """Every tensor by name, those that no checkpoint holds too, as the network itself lists
    them."""
    return {**network.state_dict(), **dict(network.named_buffers())}


def reference(folder):
    """The same model by transformers, or, without weights, by one process."""
    if has_weights(folder):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded(folder, None)[0]


def check(case, folder):
    """Every tensor is the whole model's to the bit, and each is held once."""
    network, loader = loaded(folder, case["layout"])
    assert (loader.why_whole or "").startswith(case["why_whole"].format(folder=folder)), (
        loader.why_whole
    )
    assert bool(loader.why_whole) == bool(case["why_whole"])
    found, expected = tensors(network), tensors(reference(folder))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        whole = gather(found[name])
        assert whole.dtype == tensor.dtype and torch.equal(whole, tensor), name
    tied = network.config.tie_word_embeddings
    assert (network.lm_head.weight is network.model.embed_tokens.weight) == tied


def main(rank, ranks, folder):
    torch.set_num_threads(1)
    fill.BLOCK, load.OPEN_BYTES = 4_000, 20_000  # small, so that tensors are cut
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks
    )
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        try:
            check(case, folder / name)
        except AssertionError as error:
            raise AssertionError(name) from error
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
