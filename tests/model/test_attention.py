"""Attention of packed rows: each way against each sequence alone, in 64 bits, by a product of
matrices and a mask."""

import math

import pytest
import torch

from onnuri.model import attention

LENGTHS = [5, 1, 9, 3]


def heads(query_heads=4, kv_heads=4, size=8, values=8):
    draw = torch.Generator().manual_seed(query_heads * 100 + kv_heads * 10 + size + values)
    tokens = sum(LENGTHS)
    return [
        torch.randn(1, n, tokens, d, dtype=torch.float64, generator=draw).requires_grad_()
        for n, d in ((query_heads, size), (kv_heads, size), (kv_heads, values))
    ]


def alone(query, key, value, scaling, window, lengths=LENGTHS):
    """[1, T, H, E]: softmax(q k / scale) v of each sequence, head by head."""
    each = query.shape[1] // key.shape[1]
    parts = []
    for q, k, v in zip(*(x[0].split(lengths, 1) for x in (query, key, value)), strict=True):
        tokens = q.shape[1]
        back = torch.arange(tokens)[:, None] - torch.arange(tokens)
        seen = (back >= 0) & (back < (window or tokens))
        made = [
            ((q[h] @ k[h // each].T * scaling).masked_fill(~seen, -math.inf)).softmax(-1)
            @ v[h // each]
            for h in range(len(q))
        ]
        parts.append(torch.stack(made, 1))
    return torch.cat(parts)[None]


def kernel(query, key, value, ends, scale, window, grouped):
    """What the varlen kernel promises, on a CPU: [T, H, D]; heads of one size, sequences apart by
    their ends."""
    assert query.shape[-1] == key.shape[-1] == value.shape[-1] and all(
        x.is_contiguous() for x in (query, key, value)
    )
    starts = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
    assert ends.dtype == torch.int32 and len(ends) == attention.ENDS
    assert ends.tolist() == starts + [starts[-1]] * (len(ends) - len(starts))
    assert grouped or query.shape[1] == key.shape[1]
    assert window[1] == 0
    rows = [x.transpose(0, 1)[None] for x in (query, key, value)]
    return alone(*rows, scale, window[0] + 1 if window[0] >= 0 else None)[0]


def on_device(lengths):
    """The sequences as for a GPU, their ends on the CPU."""
    made = attention.RowSequences(lengths)
    made.ends = attention.padded_ends(lengths)
    return made


def of_2_13(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
):
    assert max_q == max_k == 16 >= max(LENGTHS)
    return kernel(query, key, value, cu_seq_q, scale, window_size, enable_gqa)


def of_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    assert is_causal and max_q == max_k == 16 >= max(LENGTHS)
    return kernel(query, key, value, cu_seq_q, 1 / math.sqrt(query.shape[-1]), (-1, 0), False)


TRIAL = (torch.device("cpu"), torch.bfloat16, (4, 2, 24, 16))
SHAPES = [{}, {"kv_heads": 2}, {"values": 5}, {"size": 6, "values": 11, "kv_heads": 1}]


@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("version", [None, of_2_13, of_2_11])
def test_a_packed_row_is_its_sequences_alone_and_so_are_its_gradients(
    monkeypatch, version, shape, window
):
    tensors, scaling = heads(**shape), 0.37
    if version is None:
        made, _ = attention.packed_attention(
            torch.nn.Identity(), *tensors, None, scaling, attention.RowSequences(LENGTHS), window
        )
    else:
        monkeypatch.setattr(attention, "_kernel", lambda: version)
        if window and version is of_2_11:
            attention.trial.cache_clear()
            assert not attention.varlen_works(*TRIAL, True)
            return
        made = attention.varlen(*tensors, scaling, on_device(LENGTHS), window)
    expected = alone(*tensors, scaling, window)
    torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-13)
    toward = torch.randn(
        made.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    for one, other in zip(
        torch.autograd.grad(made, tensors, toward),
        torch.autograd.grad(expected, tensors, toward),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("window", [None, 2, 6])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_sequences_of_equal_length_are_a_batch(kv_heads, window):
    tensors = heads(kv_heads=kv_heads)
    sequences = attention.RowSequences([6, 6, 6])
    made, _ = attention.packed_attention(
        torch.nn.Identity(), *tensors, None, 0.37, sequences, window
    )
    parts = [
        alone(*part, 0.37, window, [6])
        for part in zip(*(x.split(6, 2) for x in tensors), strict=True)
    ]
    torch.testing.assert_close(made, torch.cat(parts, 1), rtol=1e-12, atol=1e-13)


def test_compiled_layers_are_not_compiled_again_for_other_lengths(monkeypatch):
    """The GPU's way, its kernel replaced: one graph without a break serves rows of any lengths."""
    counts = []

    def count(graph, inputs):
        counts.append(graph)
        return graph

    monkeypatch.setattr(
        attention,
        "_kernel",
        lambda: lambda q, k, v, *rest, scale, window_size, enable_gqa=False: q * scale,
    )
    attention.trial.cache_clear()
    monkeypatch.setattr(attention, "trial", lambda *sizes: True)
    torch._dynamo.reset()
    compiled = torch.compile(attention.packed_attention, backend=count, fullgraph=True)
    tensors = [x.detach() for x in heads()]
    for lengths in ([5, 1, 9, 3], [18 - 10, 10], [9, 1, 1, 1, 6]):
        made, _ = compiled(torch.nn.Identity(), *tensors, None, 0.5, on_device(lengths))
        torch.testing.assert_close(made, tensors[0].transpose(1, 2) * 0.5)
    assert len(counts) == 1


def test_without_lengths_a_row_is_one_sequence():
    tensors = heads()
    made, none = attention.packed_attention(torch.nn.Identity(), *tensors, None, 0.5)
    whole = torch.nn.functional.scaled_dot_product_attention(
        *tensors, is_causal=True, scale=0.5
    ).transpose(1, 2)
    assert none is None
    torch.testing.assert_close(made, whole)


def test_a_kernel_that_fails_is_not_used(monkeypatch):
    attention.trial.cache_clear()
    assert not attention.varlen_works(*TRIAL, False)  # it has no CPU kernel
    attention.trial.cache_clear()
    monkeypatch.setattr(
        attention,
        "_kernel",
        lambda: lambda *tensors, scale=None, window_size=None, enable_gqa=None: tensors[0],
    )
    assert attention.varlen_works(*TRIAL, True)
    attention.trial.cache_clear()
