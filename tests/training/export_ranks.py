"""One of some real processes over gloo: `python export_ranks.py RANK RANKS FOLDER`. Exports every
case of FOLDER/cases.json, a model and a layout, to FOLDER/NAME/own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from onnuri.errors import ConfigError
from onnuri.model.backbone import BackboneConfig, build_hf_model
from onnuri.parallel.apply import parallelize
from onnuri.planner.parallel import ParallelConfig
from onnuri.training import export


def built(case):
    """A model with random numbers in every weight and buffer, norms and router biases too."""
    if case["family"] == "laptop":
        network = BackboneConfig(**case["values"]).build()
    else:
        network = build_hf_model(case["family"], case["values"])
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.normal_()
    return network


def write(case, folder):
    network = built(case)
    meshes = parallelize(network, ParallelConfig.from_json(case["layout"]), dtype=None)
    if case.get("gone") == dist.get_rank():  # its disk is full at the second block
        append = export._append
        export._append = lambda block, *rest: append(block, *rest) if block.begins else full()
    export.export(
        network,
        folder,
        meshes,
        dtype=getattr(torch, case["dtype"]),
        write_more=lambda part: (part / "more.txt").write_text("more"),
        file_bytes=case["file_bytes"],
        block_bytes=case["block_bytes"],
    )


def full():
    raise OSError(28, os.strerror(28))


def main(rank, ranks, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks
    )
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        try:
            write(case, folder / name / "own")
        except ConfigError as error:
            (folder / f"{name}-{rank}.error").write_text(str(error))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
