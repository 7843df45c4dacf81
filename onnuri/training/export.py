"""This module writes a sharded model as a Hugging Face folder, by all ranks together, without
gathering it on one.

    folder/config.json, generation_config.json      by the first rank
    folder/model-00001-of-00007.safetensors …       each by one rank, eight at a time
    folder/model.safetensors.index.json             which tensor is in which file

The folder holds what `save_pretrained` writes of the whole model; one file is the same to the byte.
A file is written from its first byte to its last, in blocks that its writer receives from the ranks
that hold shards of them, so a rank needs memory for its own shards and some blocks. The module
knows no modality.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from onnuri.errors import ConfigError
from onnuri.files import whole_folder
from onnuri.model.backbone import no_bars, save_settings
from onnuri.model.written_weights import Part, WrittenWeight, split, written_weights
from onnuri.parallel import group
from onnuri.parallel.mesh import Meshes
from onnuri.parallel.pieces import Shards, exchange
from onnuri.parallel.whole import named_state

WRITERS = 8
"""files that are written at the same time, each by another rank"""
BLOCK_BYTES = 32 << 20
"""bytes that a writer receives at a time; a rank may have to send that many to each writer"""
FILE_BYTES = 1_000_000_000
"""bytes of tensors in a file, unless one tensor alone has more"""
DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
"""names of dtypes in a safetensors file, in the order in which the safetensors package knows
them"""


class File(NamedTuple):
    """A File is one safetensors file of an export."""

    name: str
    writer: int
    """rank that writes it"""
    weights: dict[str, WrittenWeight]
    """its tensors by name, in the order in which they lie in it"""


class FileBlock(NamedTuple):
    """A FileBlock is a stretch of a file's tensors that is written at once."""

    file: File
    begins: bool
    """whether it is the first of its file"""
    parts: list[tuple[Part, torch.dtype]]


def export(
    network: Any,
    folder: Path,
    meshes: Meshes | None = None,
    *,
    dtype: torch.dtype | Mapping[str, torch.dtype],
    special_ids: tuple[int, int, int] | None = None,
    write_more: Callable[[Path], None] | None = None,
    file_bytes: int = FILE_BYTES,
    block_bytes: int = BLOCK_BYTES,
) -> None:
    """Write a network as a Hugging Face folder, which appears whole or not at all. Every rank must
    call this; `meshes` are those over which the network is sharded, None for a whole one.

    Floating-point weights are written in `dtype`, which may give each by its name in the model's
    state. `special_ids` are those that begin, end and pad a
    sequence; None: the network's own. The first rank calls `write_more` with the unfinished folder,
    for a tokenizer and the like. A rank's memory grows by fifteen times `block_bytes` at most.
    Raises ConfigError, at every rank, if the folder cannot be written or is not seen by all ranks,
    if a weight is beyond the range of its `dtype`, and for a class whose checkpoints hold more than
    pieces of its weights.
    """
    names = network.state_dict()
    dtypes = dtype if isinstance(dtype, Mapping) else dict.fromkeys(names, dtype)
    files, index = plan(network, dtypes, file_bytes)
    _check_range(network, dtypes)
    with _folder_of_all_ranks(folder) as part:
        with _writing_together(folder):
            if group.rank() == 0:
                first = next(n for n, p in network.named_parameters() if p.is_floating_point())
                save_settings(network, part, dtypes[first], special_ids)
                if len(files) > 1:
                    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
                    (part / "model.safetensors.index.json").write_text(text, encoding="utf-8")
        with _writing_together(folder):
            _write_files(Shards(dict(named_state(network)), meshes), files, part, block_bytes)
        with _writing_together(folder), no_bars():
            if group.rank() == 0 and write_more:
                write_more(part)


def plan(
    network: Any, dtype: torch.dtype | Mapping[str, torch.dtype], file_bytes: int
) -> tuple[list[File], dict[str, Any]]:
    """Return the safetensors files of a network, and the content of their index. Both are the same
    on every rank.

    Raises ConfigError if `written_weights` does.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    weights = written_weights(network, dtype)
    # views of one tensor, as a layer's experts are in `save_pretrained`, would be kept in one file,
    # however large; here each is a tensor of its own
    shapes = {n: torch.empty(w.shape, dtype=w.dtype, device="meta") for n, w in weights.items()}
    cut = split_torch_state_dict_into_shards(shapes, max_shard_size=file_bytes)
    order = list(DTYPES)
    files = []
    for number, (name, members) in enumerate(cut.filename_to_tensors.items()):
        # the order of the safetensors package: wide dtypes first, so that each tensor is aligned
        members = sorted(members, key=lambda n: (-order.index(weights[n].dtype), n))
        files.append(File(name, _writer(number), {n: weights[n] for n in members}))
    metadata = {"total_parameters": network.num_parameters(), **cut.metadata}
    return files, {"metadata": metadata, "weight_map": cut.tensor_to_filename}


def _writer(number: int) -> int:
    """Return the rank that writes file `number`: files that are written together come from ranks
    far apart, which are on different machines."""
    writers = min(WRITERS, group.ranks())
    apart = group.ranks() // writers
    return number % writers * apart + number // writers % apart


def _write_files(shards: Shards, files: list[File], folder: Path, block_bytes: int) -> None:
    """Write all files, each block in one exchange. Raises OSError, in the end, if this rank cannot
    write one of its files."""
    error: OSError | None = None
    for blocks in _rounds(files, block_bytes):
        received = exchange(shards, {block.file.writer: block.parts for block in blocks})
        for block in blocks:
            if block.file.writer != group.rank() or error:
                continue
            try:
                _append(block, received, folder)
            except OSError as failed:  # the others wait for this rank's shards all the same
                error = failed
    if error:
        raise error


def _rounds(files: list[File], block_bytes: int) -> Iterator[list[FileBlock]]:
    """Yield the blocks that are written at the same time, at most one per rank."""
    count = min(WRITERS, group.ranks())
    lanes = [
        itertools.chain.from_iterable(_blocks(file, block_bytes) for file in files[lane::count])
        for lane in range(count)
    ]
    for blocks in itertools.zip_longest(*lanes):
        yield [block for block in blocks if block]


def _blocks(file: File, block_bytes: int) -> Iterator[FileBlock]:
    """Yield the blocks of a file in the order in which they lie in it."""
    parts: list[tuple[Part, torch.dtype]] = []
    room, begins = block_bytes, True
    for weight in file.weights.values():
        for part in split(weight.part, max(1, block_bytes // weight.dtype.itemsize)):
            size = part.numel * weight.dtype.itemsize
            if size > room and parts:
                yield FileBlock(file, begins, parts)
                parts, room, begins = [], block_bytes, False
            parts.append((part, weight.dtype))
            room -= size
    yield FileBlock(file, begins, parts)


def _append(block: FileBlock, tensors: list[Tensor], folder: Path) -> None:
    """Write a block's bytes at the end of its file, before the first the file's header. Raises
    OSError if that is impossible."""
    with (folder / block.file.name).open("ab") as file:
        if block.begins:
            file.write(_header(block.file))
        for tensor in tensors:
            file.write(tensor.numpy().data)


def _header(file: File) -> bytes:
    """Return what a safetensors file begins with: the length of a JSON text, 8 bytes, and the text,
    which gives dtype, shape and place of every tensor."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, weight in file.weights.items():
        start, end = end, end + weight.part.numel * weight.dtype.itemsize
        entries[name] = {
            "dtype": DTYPES[weight.dtype],
            "shape": list(weight.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _check_range(network: Any, dtypes: Mapping[str, torch.dtype]) -> None:
    """Raise ConfigError, at every rank, if a weight that is written in float16 is beyond its
    range: every other dtype has that of float32."""
    with group.failing_together():
        for name, tensor in named_state(network):
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            if not local.is_floating_point() or dtypes[name] is not torch.float16:
                continue
            if not local.numel():
                continue
            low, high = torch.aminmax(local)
            if max(-low, high) > torch.finfo(torch.float16).max:
                raise ConfigError(
                    f"weight {name}",
                    "is beyond the range of torch.float16",
                    "export in torch.bfloat16",
                )


@contextlib.contextmanager
def _writing_together(folder: Path) -> Iterator[None]:
    """Run a `with` block in every rank; what one cannot write in the folder is raised in all, as a
    ConfigError."""
    with group.failing_together():
        try:
            yield
        except OSError as error:
            raise ConfigError(
                str(folder), f"cannot be written ({error.strerror})", "give another folder"
            ) from None


@contextlib.contextmanager
def _folder_of_all_ranks(folder: Path) -> Iterator[Path]:
    """Yield, at every rank, the empty folder of `whole_folder`, which the first rank makes and puts
    in place of `folder` once all have left this context.

    Raises ConfigError, at every rank, if a rank does not see it or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        name = ""
        with group.failing_together():
            if group.rank() == 0:
                name = str(stack.enter_context(whole_folder(folder)))
        part = Path(group.gather_objects(name)[0])
        with group.failing_together():
            if not part.is_dir():
                raise ConfigError(
                    str(folder),
                    f"is not seen by rank {group.rank()}",
                    "give a folder that all machines share",
                )
        yield part
        group.wait_for_all()
        with group.failing_together():
            stack.close()
