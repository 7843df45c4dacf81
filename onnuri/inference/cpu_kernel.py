"""The forward pass compiled for this machine: builds `kernel.c` with its C compiler once, and calls
it. Knows no requests.

Where there is no compiler, or its build does not agree with PyTorch, `fastest` returns PyTorch's
forward pass, which gives the same and is slower.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnuri import files
from onnuri.inference.cache import Cache
from onnuri.inference.cpu_llama import LlamaForward, is_plain_llama, queries_keys_values
from onnuri.inference.hf_forward import HFForward

SOURCE = Path(__file__).with_name("kernel.c")
FLAGS = ("-O3", "-fPIC", "-shared")
WAYS = (("-march=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",))
"""what else compilers are told, until one takes it: some have no OpenMP, some their own name for
this processor"""
BUILD_SECONDS = 120.0
SIZES = (1, 2, 4, 8, 16)
"""vectors that a head may be long; 16 vectors of 8 lanes are heads of 128 on AVX2"""
LANES = "ONNURI_KERNEL_LANES"
"""environment variable: floats in a vector, 8 or 16, instead of what the compiler finds for this
processor"""


def fastest(model: nn.Module, cache: Cache, compiled: bool = True) -> LlamaForward | HFForward:
    """Return the fastest forward pass for a model over a cache: the compiled kernel for the Llamas
    that it knows, if `compiled` and it can be built, `LlamaForward` otherwise, and `HFForward` for
    any other class."""
    if not is_plain_llama(model):
        return HFForward(model)
    if not compiled:
        return LlamaForward(model)
    exact = all(torch.equal(p.half().float(), p) for p in model.parameters() if p.ndim == 2)
    library, size = build("_Float16" if exact else "float"), cache.layers[0].shape[-1]
    if library is None or size not in [n * library.lanes() for n in SIZES]:
        return LlamaForward(model)
    kernel = CompiledLlama(model, cache, library, torch.float16 if exact else torch.float32)
    return kernel if _agrees(kernel, cache) else LlamaForward(model)


def _agrees(kernel: CompiledLlama, cache: Cache) -> bool:
    """Return whether three decoding steps and the logits of the compiled kernel equal PyTorch's
    within rounding. The cache's first positions are overwritten."""
    rows, vocabulary = min(2, cache.rows), len(kernel.embedding)
    for at in range(3):
        ids = [(rows * at + row) % vocabulary for row in range(rows)]
        hidden = kernel.decode(ids, [at] * rows, cache)
        expected = LlamaForward.decode(kernel, ids, [at] * rows, cache)
        if not torch.allclose(hidden, expected, atol=1e-3, rtol=1e-3):
            return False
    expected = hidden @ (kernel.embedding * kernel.final).T
    return torch.allclose(kernel.logits(hidden, 0, vocabulary), expected, atol=1e-2, rtol=1e-3)


@functools.cache
def build(weight: str) -> ctypes.CDLL | None:
    """Return the kernel as a loaded library for weights of a C type (`float` or `_Float16`),
    compiled unless an equal build is on disk; None where there is no compiler or none works."""
    compiler = (
        os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    )
    if compiler is None:
        return None
    lanes = os.environ.get(LANES)
    flags = (*FLAGS, f"-DLANES={int(lanes)}") if lanes in ("8", "16") else FLAGS
    build_inputs = [
        SOURCE.read_text(encoding="utf-8"),
        flags,
        WAYS,
        weight,
        compiler,
        torch.__version__,
        platform.machine(),
        _features(),
    ]
    try:
        path = (
            files.cache_folder()
            / f"kernel-{hashlib.sha256(repr(build_inputs).encode()).hexdigest()[:24]}.so"
        )
        if not path.exists():
            _compile(compiler, flags, weight, path)
        library = ctypes.CDLL(str(path))
    except (
        OSError,
        RuntimeError,
        subprocess.SubprocessError,
    ):  # RuntimeError: the user has no home
        return None
    library.lanes.restype = library.scratch_floats.restype = ctypes.c_int64
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    library.step.argtypes = [pointer, pointer, pointer, integer, pointer]
    library.logits.argtypes = [pointer, pointer, integer, integer, integer, pointer, integer]
    return library


def _compile(compiler: str, flags: tuple[str, ...], weight: str, path: Path) -> None:
    """Compile `kernel.c` into a shared library at `path`, by the first of `WAYS` that the compiler
    takes; its OpenMP library is then the one that PyTorch has loaded. Raises CalledProcessError
    where it takes none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        library = Path(folder) / "kernel.so"
        for way in WAYS:
            result = subprocess.run(
                [
                    compiler,
                    *flags,
                    *way,
                    f"-DWEIGHT={weight}",
                    str(SOURCE),
                    "-o",
                    str(library),
                    "-lm",
                ],
                capture_output=True,
                timeout=BUILD_SECONDS,
            )
            if result.returncode == 0:
                library.rename(path)
                return
        result.check_returncode()


def _features() -> str:
    """Return the processor's feature flags as far as the system tells them. They are part of a
    build's name, since several machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor()


class _Layer(ctypes.Structure):
    """The C struct `Layer` of kernel.c: addresses of one layer's weights and cache."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("qkv", "out", "gate_up", "down", "before", "behind", "cache")
    ]


class _Model(ctypes.Structure):
    """The C struct `Model` of kernel.c: a model's sizes and the addresses of its weights."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "layers",
                "width",
                "heads",
                "size",
                "hidden",
                "positions",
                "rows",
                "threads",
            )
        ),
        ("epsilon", ctypes.c_float),
        *(
            (name, ctypes.c_void_p)
            for name in ("embedding", "final", "turns", "head", "layer", "scratch")
        ),
    ]


class CompiledLlama(LlamaForward):
    """A forward pass that prefills prompts in PyTorch, which is good at many ids, and decodes and
    computes logits in the compiled kernel."""

    def __init__(
        self, model: nn.Module, cache: Cache, library: ctypes.CDLL, weight: torch.dtype
    ) -> None:
        """Lay the weights out in the kernel's panels, as `weight` (float32 or float16), and bind
        the kernel to one cache."""
        super().__init__(model)
        self.library, self.cache, self.weight = library, cache, weight
        core: Any = model.model
        panel = 2 * library.lanes()

        def address_of(tensor: Tensor) -> int:
            """Return the address of a contiguous copy of a tensor, which lives as long as this
            object."""
            self._pinned.append(tensor.detach().contiguous())
            return self._pinned[-1].data_ptr()

        self._pinned: list[Tensor] = []
        layers = (_Layer * self.layers)()
        for k, (layer, store) in enumerate(zip(core.layers, cache.layers, strict=True)):
            attention, mlp = layer.self_attn, layer.mlp
            for name, matrix in (
                ("qkv", queries_keys_values(attention, self.heads, self.size)),
                ("out", attention.o_proj.weight),
                ("gate_up", _pairs(mlp.gate_proj.weight, mlp.up_proj.weight, panel // 2)),
                ("down", mlp.down_proj.weight),
            ):
                setattr(layers[k], name, address_of(_panels(matrix.detach(), panel).to(weight)))
            layers[k].before = address_of(layer.input_layernorm.weight)
            layers[k].behind = address_of(layer.post_attention_layernorm.weight)
            layers[k].cache = store.data_ptr()
        self._layers = layers
        self._model = _Model(
            self.layers,
            self.width,
            self.heads,
            self.size,
            len(core.layers[0].mlp.gate_proj.weight),
            self.positions,
            cache.rows,
            torch.get_num_threads(),
            float(self.epsilon),
        )
        self._model.embedding, self._model.final = (
            address_of(self.embedding),
            address_of(self.final),
        )
        self._model.turns = address_of(torch.view_as_real(self.turns[:, 0, 0]).flatten(1))
        self._model.head = address_of(_panels(self.embedding, panel).to(weight))
        self._model.layer = ctypes.addressof(layers)
        self._model.scratch = address_of(
            torch.zeros(library.scratch_floats(ctypes.byref(self._model)))
        )
        self._model_address = ctypes.addressof(self._model)

    def decode(self, ids: list[int], lengths: list[int], cache: Cache) -> Tensor:
        """Return the last hidden states [N, C] of one new id per row, as `LlamaForward.decode`
        does, from the kernel; `cache` must be the one it is bound to."""
        assert cache is self.cache and max(lengths) < self.positions
        assert len(ids) == len(lengths) <= cache.rows
        past, new_ids = torch.tensor(lengths), torch.tensor(ids)
        hidden = torch.empty(len(ids), self.width)
        self.library.step(
            self._model_address, new_ids.data_ptr(), past.data_ptr(), len(ids), hidden.data_ptr()
        )
        return hidden

    def logits(self, hidden: Tensor, lo: int, hi: int, extra: int | None = None) -> Tensor:
        """Return logits [N, hi - lo], with one more column for `extra`, as `LlamaForward.logits`
        does, from the kernel."""
        hidden = (hidden * self.final).contiguous()
        logits = torch.empty(len(hidden), hi - lo + (extra is not None))
        self.library.logits(
            self._model_address,
            hidden.data_ptr(),
            len(hidden),
            lo,
            hi,
            logits.data_ptr(),
            logits.shape[1],
        )
        if extra is not None:
            logits[:, -1] = hidden @ self.embedding[extra]
        return logits


def _panels(matrix: Tensor, wide: int) -> Tensor:
    """Return a matrix [outputs, inputs] as [panels, inputs, wide], the order in which the kernel
    reads it: `wide` outputs per panel, the last one padded with zeros."""
    filled = torch.cat([matrix, matrix.new_zeros(-len(matrix) % wide, matrix.shape[1])])
    return filled.unflatten(0, (-1, wide)).transpose(1, 2).contiguous()


def _pairs(gate: Tensor, up: Tensor, lanes: int) -> Tensor:
    """Return the rows of the gate and up projections in turns of `lanes`, so that the kernel has
    both halves of a hidden unit in one panel."""
    more = gate.new_zeros(-len(gate) % lanes, gate.shape[1])
    both = [torch.cat([x.detach(), more]).unflatten(0, (-1, lanes)) for x in (gate, up)]
    return torch.stack(both, 1).flatten(0, 2)
