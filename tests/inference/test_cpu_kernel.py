"""The compiled kernel beside the pass in PyTorch, which other tests hold against transformers'."""

import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnuri.inference import cpu_kernel
from onnuri.inference.cache import Cache
from onnuri.inference.cpu_llama import LlamaForward
from onnuri.inference.engine import Engine, EngineConfig
from onnuri.inference.request import Request, TokenConstraint
from onnuri.model.backbone import BackboneConfig

ROWS, POSITIONS, VOCABULARY = 19, 96, 331
SHAPES = ((48, 3, 96), (64, 4, 100), (96, 3, 72), (128, 2, 37), (128, 1, 200))
"""width, heads, hidden: heads of 16 to 128, and what fills no panel"""


@pytest.fixture(autouse=True)
def compiler():
    assert shutil.which("cc"), "a C compiler is needed here: make debs installs it"


def model_of(shape, half):
    torch.manual_seed(sum(shape))
    width, heads, hidden = shape
    settings = BackboneConfig(
        vocabulary=VOCABULARY, width=width, heads=heads, hidden=hidden, layers=2, longest=POSITIONS
    )
    model = settings.build().eval()
    for name, p in model.named_parameters():
        p.requires_grad_(False)
        p.copy_(
            1 + torch.randn_like(p) / 4 if "norm" in name else torch.randn_like(p) / len(p) ** 0.5
        )
    return model.half().float() if half else model


def pair_of(shape, half, threads):
    """The kernel and PyTorch with caches of the same random content."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    model = model_of(shape, half)
    caches = [Cache.of(model, ROWS) for _ in range(2)]
    made = cpu_kernel.fastest(model, caches[0])
    for a, b in zip(caches[0].layers, caches[1].layers, strict=True):
        b.copy_(a.copy_(torch.randn(a.shape)))
    torch.set_num_threads(before)
    assert isinstance(made, cpu_kernel.CompiledLlama) and made.weight == (
        torch.float16 if half else torch.float32
    )
    return (made, caches[0]), (LlamaForward(model), caches[1])


@pytest.fixture(params=[None, "8"], ids=["lanes of this machine", "8 lanes"])
def lanes(request):
    """Kernels built for this processor's vectors, and for AVX2's wherever this runs."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setenv(cpu_kernel.LANES, request.param)
        cpu_kernel.build.cache_clear()
        yield request.param
    cpu_kernel.build.cache_clear()


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.sampled_from(SHAPES),
    half=st.booleans(),
    threads=st.sampled_from((1, 2, 3)),
    data=st.data(),
)
def test_the_kernel_is_the_pass_of_pytorch(lanes, shape, half, threads, data):
    (kernel, kept), (eager, other) = pair_of(shape, half, threads)
    assert not lanes or kernel.library.lanes() == int(lanes)
    lengths = data.draw(st.lists(st.integers(0, POSITIONS - 3), min_size=1, max_size=ROWS))
    for _ in range(2):
        ids = torch.randint(0, VOCABULARY, (len(lengths),)).tolist()
        ours, theirs = kernel.decode(ids, lengths, kept), eager.decode(ids, lengths, other)
        assert torch.allclose(ours, theirs, atol=2e-4, rtol=1e-3)
        for a, b in zip(kept.layers, other.layers, strict=True):
            assert torch.allclose(a, b, atol=2e-4, rtol=1e-3)
        lo = data.draw(st.integers(0, VOCABULARY - 1))
        hi = data.draw(st.integers(lo + 1, VOCABULARY))
        extra = data.draw(st.none() | st.integers(0, VOCABULARY - 1))
        assert torch.allclose(
            kernel.logits(theirs, lo, hi, extra),
            eager.logits(theirs, lo, hi, extra),
            atol=1e-3,
            rtol=1e-3,
        )
        lengths = [length + 1 for length in lengths]


def test_a_row_is_the_same_to_the_last_bit_whoever_is_beside_it():
    (kernel, cache), _ = pair_of(SHAPES[1], True, 2)
    ids = torch.randint(0, VOCABULARY, (ROWS,)).tolist()
    lengths = torch.randint(0, POSITIONS - 1, (ROWS,)).tolist()
    whole = kernel.decode(ids, lengths, cache)
    for count in range(1, ROWS):
        assert torch.equal(kernel.decode(ids[:count], lengths[:count], cache), whole[:count])
    assert torch.equal(kernel.logits(whole, 5, 300)[:3], kernel.logits(whole[:3], 5, 300))


def test_attention_far_beyond_what_an_exponential_holds():
    (kernel, kept), (eager, other) = pair_of(SHAPES[0], False, 1)
    for cache in (kept, other):
        for layer in cache.layers:
            layer[0] *= 1e4
    ids, lengths = [0, 1, 2, 3], [0, 20, 50, 94]
    ours, theirs = (f.decode(ids, lengths, c) for f, c in ((kernel, kept), (eager, other)))
    assert torch.isfinite(ours).all() and torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("compiler", ["/bin/false", "/no/such/compiler"])
def test_without_a_compiler_pytorch_decodes(compiler, monkeypatch, tmp_path):
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu_kernel.build.cache_clear()
    model = model_of(SHAPES[0], True)
    engine = Engine(model, EngineConfig(rows=2))
    cpu_kernel.build.cache_clear()
    assert type(engine.forward) is LlamaForward
    handle = engine.submit(
        Request(prompt=[1, 2], token_constraint=TokenConstraint(position_ranges=((0, 50),) * 4))
    )
    engine.run([handle])
    assert len(handle.ids) == 4 and not any(tmp_path.rglob("*.so"))


def test_a_kernel_that_does_not_agree_is_not_used(monkeypatch, tmp_path):
    wrong = tmp_path / "kernel.c"
    wrong.write_text(
        cpu_kernel.SOURCE.read_text().replace("c - key[k + 1] * s", "c + key[k + 1] * s")
    )
    monkeypatch.setattr(cpu_kernel, "SOURCE", wrong)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu_kernel.build.cache_clear()
    model = model_of(SHAPES[0], False)
    assert type(cpu_kernel.fastest(model, Cache.of(model, 3))) is LlamaForward and any(
        tmp_path.rglob("*.so")
    )
    cpu_kernel.build.cache_clear()


def test_the_kernel_is_built_once_and_a_half_written_one_is_never_used(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu_kernel.build.cache_clear()
    assert cpu_kernel.build("float") is not None
    [made] = (tmp_path / "onnuri").iterdir()
    stamp = made.stat().st_mtime_ns
    cpu_kernel.build.cache_clear()
    assert cpu_kernel.build("float") is not None and made.stat().st_mtime_ns == stamp
    cpu_kernel.build.cache_clear()
