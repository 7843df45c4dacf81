"""The forward pass compiled for this machine: builds `kernel.c` with its C compiler once, and calls
it. Knows no requests.

Where there is no compiler, or what it builds does not agree with PyTorch, `fastest` gives PyTorch's
pass, which is the same and slower.
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

from onnuri.inference.cache import Cache
from onnuri.inference.cpu_llama import LlamaForward, knows, queries_keys_values
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
    """Return the fastest forward pass for a model and a cache: ours for the class that it knows,
    compiled, if that is wanted and can be."""
    if not knows(model):
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
    """Return whether a step is what PyTorch says it is; the cache's first ids are overwritten."""
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
    """Return the kernel for weights of a type, compiled unless it is there from before; None where
    that cannot be."""
    compiler = (
        os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    )
    if compiler is None:
        return None
    lanes = os.environ.get(LANES)
    chosen = (*FLAGS, f"-DLANES={int(lanes)}") if lanes in ("8", "16") else FLAGS
    about = [
        SOURCE.read_text(encoding="utf-8"),
        chosen,
        WAYS,
        weight,
        compiler,
        torch.__version__,
        platform.machine(),
        _features(),
    ]
    try:
        path = _folder() / f"kernel-{hashlib.sha256(repr(about).encode()).hexdigest()[:24]}.so"
        if not path.exists():
            _compile(compiler, chosen, weight, path)
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
    """Build the kernel, with threads by OpenMP, whose library PyTorch has loaded, if the compiler
    has it. Raises CalledProcessError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / "kernel.so"
        for way in WAYS:
            done = subprocess.run(
                [compiler, *flags, *way, f"-DWEIGHT={weight}", str(SOURCE), "-o", str(made), "-lm"],
                capture_output=True,
                timeout=BUILD_SECONDS,
            )
            if done.returncode == 0:
                made.rename(path)
                return
        done.check_returncode()


def _folder() -> Path:
    """Of what is compiled, for this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnuri"


def _features() -> str:
    """What the processor can do, as far as the system says: homes are shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor()


class _Layer(ctypes.Structure):
    """As in kernel.c."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("qkv", "out", "gate_up", "down", "before", "behind", "cache")
    ]


class _Model(ctypes.Structure):
    """As in kernel.c."""

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
    """Prompts are read by PyTorch, which is good at many ids; what follows one by one, and the
    head, by the kernel."""

    def __init__(
        self, model: nn.Module, cache: Cache, library: ctypes.CDLL, weight: torch.dtype
    ) -> None:
        super().__init__(model)
        self.library, self.cache, self.weight = library, cache, weight
        core: Any = model.model
        panel = 2 * library.lanes()

        def keep(tensor: Tensor) -> int:
            """Its address; it lives as long as this."""
            self._held.append(tensor.detach().contiguous())
            return self._held[-1].data_ptr()

        self._held: list[Tensor] = []
        layers = (_Layer * self.layers)()
        for k, (layer, store) in enumerate(zip(core.layers, cache.layers, strict=True)):
            attention, mlp = layer.self_attn, layer.mlp
            for name, matrix in (
                ("qkv", queries_keys_values(attention, self.heads, self.size)),
                ("out", attention.o_proj.weight),
                ("gate_up", _pairs(mlp.gate_proj.weight, mlp.up_proj.weight, panel // 2)),
                ("down", mlp.down_proj.weight),
            ):
                setattr(layers[k], name, keep(_panels(matrix.detach(), panel).to(weight)))
            layers[k].before = keep(layer.input_layernorm.weight)
            layers[k].behind = keep(layer.post_attention_layernorm.weight)
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
        self._model.embedding, self._model.final = keep(self.embedding), keep(self.final)
        self._model.turns = keep(torch.view_as_real(self.turns[:, 0, 0]).flatten(1))
        self._model.head = keep(_panels(self.embedding, panel).to(weight))
        self._model.layer = ctypes.addressof(layers)
        self._model.scratch = keep(torch.zeros(library.scratch_floats(ctypes.byref(self._model))))
        self._at = ctypes.addressof(self._model)

    def decode(self, ids: list[int], lengths: list[int], cache: Cache) -> Tensor:
        """Return what `LlamaForward.decode` does; of its own cache only."""
        assert cache is self.cache and max(lengths) < self.positions
        assert len(ids) == len(lengths) <= cache.rows
        held, drawn = torch.tensor(lengths), torch.tensor(ids)
        hidden = torch.empty(len(ids), self.width)
        self.library.step(self._at, drawn.data_ptr(), held.data_ptr(), len(ids), hidden.data_ptr())
        return hidden

    def logits(self, hidden: Tensor, lo: int, hi: int, extra: int | None = None) -> Tensor:
        """Return what `LlamaForward.logits` does."""
        hidden = (hidden * self.final).contiguous()
        logits = torch.empty(len(hidden), hi - lo + (extra is not None))
        self.library.logits(
            self._at, hidden.data_ptr(), len(hidden), lo, hi, logits.data_ptr(), logits.shape[1]
        )
        if extra is not None:
            logits[:, -1] = hidden @ self.embedding[extra]
        return logits


def _panels(matrix: Tensor, wide: int) -> Tensor:
    """[panels, inputs, wide] of a matrix [outputs, inputs], the last filled up with zeros."""
    filled = torch.cat([matrix, matrix.new_zeros(-len(matrix) % wide, matrix.shape[1])])
    return filled.unflatten(0, (-1, wide)).transpose(1, 2).contiguous()


def _pairs(gate: Tensor, up: Tensor, lanes: int) -> Tensor:
    """Outputs of gate and up in turns of `lanes`."""
    more = gate.new_zeros(-len(gate) % lanes, gate.shape[1])
    both = [torch.cat([x.detach(), more]).unflatten(0, (-1, lanes)) for x in (gate, up)]
    return torch.stack(both, 1).flatten(0, 2)
