"""The audio codec against independent formulas; untrained and small, for nothing here depends on
weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.codecs.audio import (
    AHEAD,
    EDGE,
    FRAME,
    HOP,
    LEVEL,
    WINDOW,
    AudioCodec,
    mel_filters,
    mels,
    prepare,
    spectrum,
)
from onnuri.toyworld.data.audio import ROW, AudioObjective, render_row


@pytest.fixture(scope="module")
def codec() -> AudioCodec:
    torch.manual_seed(0)
    made = AudioCodec(AudioCodec.Config(fine=32, coarse=48, fine_blocks=2, coarse_blocks=2)).eval()
    with torch.no_grad():
        made.to_codes.weight.mul_(20)  # many different codes, though nothing is learned
    return made


def tone(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16_000
    chirp = 0.1 * np.sin(2 * np.pi * (200 + 400 * time) * time)
    return (chirp + 0.02 * rng.standard_normal(samples)).astype(np.float32)


def test_mel_filters_are_htk_triangles():
    hz, filters = np.arange(WINDOW // 2 + 1) * 16_000 / WINDOW, mel_filters().numpy()
    mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    edges = 700 * (10 ** (np.arange(82) * mel(8000) / 81 / 2595) - 1)
    for k in (0, 7, 40, 79):
        expected = np.interp(hz, edges[k : k + 3], [0, 1, 0], left=0, right=0)
        np.testing.assert_allclose(filters[k], expected, atol=1e-3)


def test_spectrum_is_numpys():
    x = tone(3200)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, EDGE), WINDOW)[::HOP]
    expected = np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1])).T
    np.testing.assert_allclose(spectrum(torch.from_numpy(x)[None])[0].numpy(), expected, atol=1e-3)
    assert mels(torch.from_numpy(x)[None]).shape == (1, 80, 20)


def test_overlap_add_inverts_the_transform(codec):
    x = torch.from_numpy(tone(6400))[None]
    window = torch.hann_window(WINDOW)
    made = torch.stft(
        torch.nn.functional.pad(x, (EDGE, EDGE)),
        WINDOW,
        HOP,
        window=window,
        center=False,
        return_complex=True,
    )
    added = codec.overlap(made)[..., EDGE:-EDGE]
    again = added[0] / added[1].clamp_min(0.5)
    torch.testing.assert_close(again[:, EDGE:-EDGE], x[:, EDGE:-EDGE], atol=1e-5, rtol=0)


@given(st.integers(0, 45), st.integers(1, 60), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_streams_as_the_whole_in_any_chunks(codec, length, chunk, seed):
    codes = np.random.default_rng(seed).integers(0, 4096, length)
    parts = list(codec.decode_stream(iter(codes.tolist()), chunk))
    assert all(p.dtype == np.float32 for p in parts)
    streamed = np.concatenate([np.zeros(0, np.float32), *parts])
    np.testing.assert_allclose(streamed, codec.decode(codes), atol=1e-4)
    assert len(streamed) == length * FRAME


def test_sound_is_out_before_the_look_ahead_is_over(codec):
    asked = []

    def codes():
        for k in range(30):
            asked.append(k)
            yield 100 * k

    out = 0
    for part in codec.decode_stream(codes()):
        out += len(part)
        assert len(asked) * FRAME - out <= AHEAD * FRAME <= 0.1 * 16_000


def test_no_sample_depends_on_more_than_the_look_ahead(codec):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4096, 40)
    other = np.concatenate([codes[:25], rng.integers(0, 4096, 15)])
    a, b = codec.decode(codes), codec.decode(other)
    first = int(np.flatnonzero(np.abs(a - b) > 1e-6)[0])
    assert 0 < 25 * FRAME - first <= AHEAD * FRAME


@given(st.lists(st.integers(0, 9000), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_a_batch_of_different_lengths_is_its_items(codec, lengths):
    sounds = [tone(n, k) for k, n in enumerate(lengths)]
    together = codec.encode_batch(sounds)
    for sound, codes in zip(sounds, together, strict=True):
        assert len(codes) == max(1, -(-len(sound) // FRAME)) and codes.dtype == np.int64
        assert (codes == codec.encode(sound)).all()
    back = codec.decode_batch(together)
    assert [len(b) for b in back] == [len(c) * FRAME for c in together]


def test_codes_do_not_depend_on_loudness(codec):
    x = tone(12_800)
    assert len(np.unique(codec.encode(x))) > 5
    assert (codec.encode(x) == codec.encode(0.25 * x)).mean() > 0.9
    assert np.sqrt(np.mean(prepare(x) ** 2)) == pytest.approx(LEVEL, rel=1e-3)


def test_silence_and_nothing_have_codes(codec):
    for sound in (np.zeros(0, np.float32), np.zeros(5000, np.float32)):
        assert np.isfinite(codec.decode(codec.encode(sound))).all()
    assert len(codec.decode(np.zeros(0, np.int64))) == 0 and not list(codec.decode_stream(iter([])))


def test_features_are_the_quantized_values(codec):
    features = codec.code_features()
    assert features.shape == (4096, 4) and len(torch.unique(features, dim=0)) == 4096
    assert ((features[1:] - features[:-1])[::8, 0] > 0).all()  # neighbours in the first level


def test_it_learns_also_after_it_has_encoded():
    torch.manual_seed(0)
    made = AudioCodec(AudioCodec.Config(fine=24, coarse=32, fine_blocks=2, coarse_blocks=1))
    made.encode(tone(3200))
    batch = {"audio": torch.from_numpy(np.stack([tone(6400, k) for k in range(2)]))}
    optimizer, losses = torch.optim.Adam(made.parameters(), 3e-3), []
    for _ in range(25):
        loss, figures = made.training_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0] and figures["log_mel_error"] > 0
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made.parameters())


def test_a_batch_is_a_function_of_the_step(codec, tmp_path):
    rows = (np.stack([np.tile(tone(ROW // 2, k), 2) for k in range(3)]) * 32767).astype(np.int16)
    np.save(tmp_path / "samples.npy", rows)
    one, two = (AudioObjective(codec, tmp_path, size=4, length=3200) for _ in range(2))
    one.batch(0)
    assert one.batch(7)["audio"].shape == (4, 3200)
    assert (one.batch(7)["audio"] == two.batch(7)["audio"]).all()
    assert not (one.batch(7)["audio"] == one.batch(8)["audio"]).all()


def test_a_row_of_the_pool_is_a_function_of_its_seed():
    one, two, other = render_row(4)["samples"], render_row(4)["samples"], render_row(5)["samples"]
    assert (
        one.shape == (ROW,)
        and one.dtype == np.int16
        and (one == two).all()
        and not (one == other).all()
    )
    assert 0.05 < np.sqrt(np.mean((one / 32767) ** 2)) < 0.12
