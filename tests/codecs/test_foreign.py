"""Codecs of transformers behind our contract: their own codes, in an order that comes back from any
sequence."""

import itertools

import numpy as np
import pytest
import torch
from foreign_codecs import small_emu3, small_mimi
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Emu3VQVAE, MimiModel

from onnuri.codecs import registry
from onnuri.codecs.flatten import (
    frames_to_sequence,
    grid_to_sequence,
    sequence_to_frames,
    sequence_to_grid,
)
from onnuri.codecs.mimi import MimiCodec
from onnuri.codecs.spec import CodecSpec, Grid, Stream
from onnuri.errors import ConfigError
from onnuri.toyworld.codecs.image import ImageCodec
from onnuri.toyworld.codecs.video import VideoCodec
from onnuri.toyworld.codecs.visual import image_spec

EMU3, MIMI = small_emu3(), small_mimi()
CODECS = [EMU3, MIMI]
ELSEWHERE = {"bpe", "object_image", "object_video", "object_shape", "mel", "tokenizer", "grid"}
"""under contract in test_contract.py, test_grid.py, and the tokenizer of others in
model/test_base.py"""


def item(codec, seed=0):
    rng = np.random.default_rng(seed)
    if codec is MIMI:
        return (rng.normal(size=int(rng.integers(4_000, 30_000))) * 0.2).astype(np.float32)
    return rng.integers(0, 256, (int(rng.integers(3, 90)), int(rng.integers(3, 90)), 3)).astype(
        np.uint8
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("codec", CODECS, ids=["emu3", "mimi"])
def test_codes_are_as_the_spec_says_and_decode_to_the_modality(codec, seed):
    codes, spec = codec.encode(item(codec, seed)), codec.spec
    assert codes.dtype == np.int64 and codes.ndim == 1 and 0 < len(codes) <= spec.max_codes
    assert codes.min() >= 0 and codes.max() < spec.num_codes == codec.num_codes
    again = codec.decode(codes)
    assert again.dtype == (np.float32 if codec is MIMI else np.uint8)
    if codec is MIMI:
        assert (
            abs(len(again) - len(item(codec, seed))) <= 2 * 16_000 / 12.5
            and np.abs(again).max() <= 1
        )
    else:
        assert again.shape[2] == 3 and all(side % 4 == 0 for side in again.shape[:2])


@pytest.mark.parametrize("codec", CODECS, ids=["emu3", "mimi"])
def test_a_batch_is_its_items_and_what_is_saved_is_loaded(codec, tmp_path):
    items = [item(codec, seed) for seed in (5, 6)]
    alone = [codec.encode(x) for x in items]
    registry.save({codec.spec.name: codec}, tmp_path)
    (again,) = registry.load(tmp_path).values()
    assert again.spec == codec.spec and type(again) is type(codec)
    for one, other, loaded in zip(
        alone, codec.encode_batch(items), again.encode_batch(items), strict=True
    ):
        assert (one == other).all() and (one == loaded).all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(CODECS), st.lists(st.floats(0, 0.999), max_size=40))
def test_any_sequence_of_codes_decodes(codec, shares):
    """A language model may stop anywhere, and write anything before."""
    made = codec.decode(np.array([int(share * codec.num_codes) for share in shares], np.int64))
    assert made.dtype == (np.float32 if codec is MIMI else np.uint8)


def test_codes_of_a_picture_are_transformers_own_row_by_row():
    picture = np.random.default_rng(1).integers(0, 256, (24, 16, 3)).astype(np.uint8)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        cells = EMU3.network.encode(pixels, torch.tensor([[24, 16]])).image_tokens[0]
        shown = EMU3.network.decode(cells[None])[0]
    codes = EMU3.encode(picture)
    assert (
        codes[:2].tolist() == [50 + 6 - 1, 50 + 8 + 4 - 1]
        and codes[2:].tolist() == cells.flatten().tolist()
    )
    np.testing.assert_array_equal(
        EMU3.decode(codes),
        ((shown + 1) * 127.5 + 0.5).clamp(0, 255).byte().permute(1, 2, 0).numpy(),
    )


def test_codes_of_a_sound_are_transformers_own_in_a_delay_pattern():
    samples = np.sin(np.arange(16_000) / 30).astype(np.float32)
    import soxr

    with torch.no_grad():
        frames = MIMI.network.encode(
            torch.from_numpy(soxr.resample(samples, 16_000, 24_000))[None, None], num_quantizers=3
        )
    books = frames.audio_codes[0].numpy()  # [Q, T]
    codes = MIMI.encode(samples)
    assert codes.tolist()[:6] == [
        books[0, 0],
        books[0, 1],
        32 + books[1, 0],
        books[0, 2],
        32 + books[1, 1],
        64 + books[2, 0],
    ]
    assert len(codes) == books.size and (sequence_to_frames(MIMI.spec, codes) == books.T).all()


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (1000, 10), (33, 500), (32, 24), (100, 100)])
def test_pictures_of_any_shape_keep_their_proportions_as_cells_allow(size):
    cells = sequence_to_grid(EMU3.spec, EMU3.encode(np.zeros((*size, 3), np.uint8)))
    height, width = cells.shape
    assert 1 <= height <= 8 and 1 <= width <= 6
    scale = min(1.0, 32 / size[0], 24 / size[1])
    assert abs(height - size[0] * scale / 4) <= 1 and abs(width - size[1] * scale / 4) <= 1


def specs(flatten, sizes):
    return CodecSpec(
        name="x",
        codec="mimi",
        modality="audio",
        codebook="x",
        codebooks=tuple(sizes),
        shape=Stream(hz=1.0),
        flatten=flatten,
        max_codes=99,
    )


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["serial", "delay"]),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(0, 7),
    st.integers(0, 99),
)
def test_frames_come_back_and_no_code_precedes_what_it_refines(flatten, sizes, steps, seed):
    spec, rng = specs(flatten, sizes), np.random.default_rng(seed)
    frames = np.stack([rng.integers(0, size, steps) for size in sizes], 1)
    sequence = frames_to_sequence(spec, frames)
    assert len(sequence) == frames.size and (sequence_to_frames(spec, sequence) == frames).all()
    ends = [0, *itertools.accumulate(sizes)]
    book = [
        next(q for q in range(len(sizes)) if ends[q] <= code < ends[q + 1]) for code in sequence
    ]
    for q in range(1, len(sizes)):  # the k-th code of a book comes after the k-th of the one before
        before, own = ([k for k, b in enumerate(book) if b == which] for which in (q - 1, q))
        assert all(a < b for a, b in zip(before, own, strict=True))
    if len(sequence):  # a sequence that stops within a frame gives the frames before it
        assert (sequence_to_frames(spec, sequence[:-1]) == frames[: steps - 1]).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 99))
def test_grids_come_back(height, width, seed):
    spec = specs("serial", [40]).replace(shape=Grid(max_height=5, max_width=7))
    cells = np.random.default_rng(seed).integers(0, 40, (height, width))
    sequence = grid_to_sequence(spec, cells)
    assert (
        spec.num_codes == 52
        and len(sequence) == 2 + cells.size
        and (sequence_to_grid(spec, sequence) == cells).all()
    )
    shorter = sequence_to_grid(spec, sequence[:-1])
    assert (
        shorter.shape == cells.shape
        and (shorter.ravel()[:-1] == cells.ravel()[:-1]).all()
        and shorter[-1, -1] == 0
    )


def test_weights_are_taken_from_a_folder_of_transformers(tmp_path):
    for codec, kind in ((EMU3, Emu3VQVAE), (MIMI, MimiModel)):
        folder = tmp_path / kind.__name__
        codec.network.save_pretrained(folder)
        limits = (
            {"max_height": 8, "max_width": 6} if codec is EMU3 else {"codebooks": 3, "seconds": 3.0}
        )
        again = type(codec).published(str(folder), **limits)
        assert (
            again.spec == codec.spec
            and (again.encode(item(codec, 9)) == codec.encode(item(codec, 9))).all()
        )


def test_features_say_every_code():
    features = EMU3.code_features()
    assert (
        features.shape == (EMU3.num_codes, 3)
        and bool(features.isfinite().all())
        and MIMI.code_features() is None
    )


def test_every_line_of_the_registry_is_under_contract():
    assert ELSEWHERE | {codec.spec.codec for codec in CODECS} == set(registry.CODECS)


def test_codecs_of_one_folder_with_networks_of_their_own_are_refused(tmp_path):
    """The second would be written over the first."""
    one, other = ImageCodec(), ImageCodec(spec=image_spec().replace(name="photo"))
    with pytest.raises(
        ConfigError,
        match="codec 'photo': has other networks than another of codebook 'visual'; give",
    ):
        registry.save({"image": one, "photo": other}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_more_codebooks_than_the_weights_have_are_refused():
    with pytest.raises(
        ConfigError, match="codebooks 6: is not 1 to 4, which the weights have; give"
    ):
        MimiCodec(MIMI.config.replace(codebooks=6))


def test_a_video_codec_alone_comes_back(tmp_path):
    video = VideoCodec().eval()
    registry.save({"video": video}, tmp_path)
    (again,) = registry.load(tmp_path).values()
    for one, other in zip(video.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)  # stored in 16 bits


def test_an_unknown_codec_is_one_line():
    with pytest.raises(
        ConfigError, match="codec 'vqgan': is not known; use one of bpe, tokenizer, object_image"
    ):
        registry.codec_class("vqgan")
    assert all(registry.codec_class(name) for name in registry.CODECS)
