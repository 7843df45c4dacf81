"""One contract, all codecs: shapes, ranges, whole = streamed, save = load, any legal codes
decode."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnuri.codecs.audio import AHEAD, FRAME
from onnuri.codecs.spec import CodecSpec
from onnuri.codecs.text import TextCodec
from onnuri.modality import MEDIA
from onnuri.toyworld import audio, image, mesh, video
from onnuri.toyworld.scene import sample_scene
from onnuri.toyworld.text import caption

FORMS = {
    "image": ((128, 128, 3), np.uint8),
    "video": ((17, 128, 128, 3), np.uint8),
    "shape": ((64, 64, 64, 4), np.uint8),
}


def item(modality: str, seed: int = 3):
    scene, rng = sample_scene(seed, "seen"), np.random.default_rng(seed)
    sentence = caption(scene, "ko", rng)
    return {
        "text": lambda: sentence,
        "image": lambda: image.render(scene).image,
        "video": lambda: video.render(scene).frames,
        "shape": lambda: mesh.voxels(scene),
        "audio": lambda: audio.speak(sentence, "ko", audio.Voice()),
    }[modality]()


@pytest.mark.parametrize("modality", MEDIA)
def test_codes_are_as_the_spec_says(codecs, modality):
    codes, spec = codecs[modality].encode(item(modality)), codecs[modality].spec
    assert (
        codes.dtype == np.int64
        and codes.min() >= 0
        and codes.max() < spec.num_codes == codecs[modality].num_codes
    )
    assert spec.name == spec.modality == modality and len(codes) <= spec.max_codes
    if spec.slots:
        assert codes.shape == (spec.item_codes,) and spec.item_codes == spec.max_codes
        assert all(
            lo <= c < hi for c, (lo, hi) in zip(codes, spec.slots.position_ranges, strict=True)
        )


@pytest.mark.parametrize("modality", MEDIA)
def test_a_batch_is_its_items(codecs, modality):
    items = [item(modality, s) for s in (3, 4)]
    together = codecs[modality].encode_batch(items)
    assert all(
        (a == codecs[modality].encode(x)).all() for a, x in zip(together, items, strict=True)
    )


@pytest.mark.parametrize("modality", FORMS)
def test_any_legal_codes_decode(codecs, modality):
    rng, ranges = np.random.default_rng(0), codecs[modality].spec.slots.position_ranges
    rows = [np.array([rng.integers(lo, hi) for lo, hi in ranges]) for _ in range(3)]
    rows += [np.array([hi - 1 for _, hi in ranges]), np.array([lo for lo, _ in ranges])]
    form, kind = FORMS[modality]
    assert all(x.shape == form and x.dtype == kind for x in codecs[modality].decode_batch(rows))


@pytest.mark.parametrize("modality", ["image", "audio", "shape", "text"])
def test_what_is_saved_is_loaded(codecs, modality, tmp_path):
    codecs[modality].save(tmp_path)
    assert CodecSpec.read_beside(tmp_path, modality) == codecs[modality].spec
    again = type(codecs[modality]).load(tmp_path)
    assert (again.encode(item(modality)) == codecs[modality].encode(item(modality))).all()


@pytest.mark.parametrize("modality", ["image", "audio", "video", "shape"])
def test_every_code_has_features(codecs, modality):
    features = codecs[modality].code_features()
    assert features.shape[0] == codecs[modality].num_codes and bool(features.isfinite().all())


def test_sound_streams_as_the_whole_with_little_look_ahead(codecs):
    codes = codecs["audio"].encode(item("audio"))
    assert AHEAD * FRAME / 16_000 <= 0.1
    parts = list(codecs["audio"].decode_stream(iter(codes.tolist())))
    assert max(len(p) for p in parts) <= (AHEAD + 1) * FRAME
    np.testing.assert_allclose(np.concatenate(parts), codecs["audio"].decode(codes), atol=1e-4)


def test_sound_up_to_now_does_not_depend_on_what_comes_later(codecs):
    codes = codecs["audio"].encode(item("audio"))[:40]
    changed = np.concatenate([codes[:30], (codes[30:] + 7) % 4096])
    a, b = codecs["audio"].decode(codes), codecs["audio"].decode(changed)
    np.testing.assert_allclose(a[: (30 - AHEAD) * FRAME], b[: (30 - AHEAD) * FRAME], atol=1e-5)


def test_video_streams_as_the_whole_and_is_causal(codecs):
    codes = codecs["video"].encode(item("video"))
    whole = codecs["video"].decode(codes)
    assert (np.concatenate(list(codecs["video"].decode_stream(codes))) == whole).all()
    assert (codecs["image"].decode(codes[:31]) == whole[0]).all()
    other = codes.copy()
    other[-3:] = codecs["video"].spec.slots.position_ranges[-1][0]
    assert (codecs["video"].decode(other)[:13] == whole[:13]).all()


def test_pictures_of_any_size_and_empty_pictures_have_codes(codecs):
    rng = np.random.default_rng(0)
    for size in ((1, 1, 3), (600, 40, 3), (128, 128, 3)):
        picture = rng.integers(0, 255, size).astype(np.uint8)
        assert codecs["image"].decode(codecs["image"].encode(picture)).shape == (128, 128, 3)


@given(st.text(max_size=60))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_text_comes_back_unchanged(codecs, text):
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates are not text
        return
    assert codecs["text"].decode(codecs["text"].encode(text)) == text


def test_words_are_single_codes():
    codec = TextCodec.learn(["작은 빨간 구가 돈다", "a small red sphere"] * 5, 400)
    assert len(codec.encode("작은 빨간 구가 돈다")) == 4


@pytest.mark.parametrize("modality", ["image", "shape"])
def test_any_relation_decides_which_object_comes_first_in_diagonal_order(codecs, modality):
    """What is left of or above another comes before it, so that a sentence says the order of the
    codes."""
    codec, made = (
        codecs[modality],
        {"image": lambda s: image.render(s).image, "shape": mesh.voxels}[modality],
    )
    config = (
        codec.config.replace(visual=codec.config.visual.replace(order="diagonal"))
        if modality == "image"
        else codec.config.replace(order="diagonal")
    )
    diagonal = type(codec)(config).eval()
    diagonal.load_state_dict(codec.state_dict())
    grid, scenes = (
        codec.spec.slots,
        [s for k in range(60) if len((s := sample_scene(k)).things) == 2][:16],
    )
    assert {s.stated[0][1] for s in scenes} == {"left_of", "right_of", "above", "below"}
    for scene in scenes:
        slots = diagonal.encode(made(scene))[4 if modality == "image" else 0 :].reshape(3, -1)
        names = grid.order[1:7] if modality == "image" else grid.order[:4]
        columns = [n for n in names for _ in range(grid.field(n).count)]
        first = [slots[k, columns.index("x" if modality == "image" else "center")] for k in (0, 1)]
        across = first[0] < first[1]
        i, relation, j = scene.stated[0]
        before = i if relation in ("left_of", "above") else j
        # whichever comes first by the sentence stands on the side of the picture where its slot
        # says it is
        assert across == (scene.things[before].x < scene.things[1 - before].x), scene.seed
