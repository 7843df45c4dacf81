"""Near duplicates: what is the same to eyes and ears is found, and what differs in one word, one tint
or one hand of a clock is not."""

import io
import itertools

import media_files
import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw

from onnuri.data.ingest import duplicates
from onnuri.data.ingest.duplicates import NearPictures, NearSounds, NearTexts

HZ = 16_000


def found(index, likenesses, other):
    for name, likeness in likenesses.items():
        index.add(name, likeness)
    return index.find(other)


def encoded(pixels, kind, **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return np.asarray(Image.open(io.BytesIO(out.getvalue())))


CHANGES = {
    "JPEG": lambda p: encoded(p, "JPEG", quality=50),
    "WebP": lambda p: encoded(p, "WEBP", quality=60),
    "half the size": lambda p: np.asarray(
        Image.fromarray(p).resize((p.shape[1] // 2, p.shape[0] // 2))
    ),
    "a little brighter": lambda p: (p.astype(int) + 4).clip(0, 255).astype(np.uint8),
    "alpha that hides nothing": lambda p: np.dstack([p, np.full(p.shape[:2], 255, np.uint8)]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_of_a_picture_is_found_among_others(change):
    pictures = {str(k): media_files.pixels(k, 160) for k in range(30)}
    likenesses = {name: duplicates.picture_likeness(p) for name, p in pictures.items()}
    for name in ("0", "7", "29"):
        copy = duplicates.picture_likeness(CHANGES[change](pictures[name]))
        assert found(NearPictures(), likenesses, copy) == name


def test_other_pictures_are_not_found():
    likenesses = [duplicates.picture_likeness(media_files.pixels(k, 128)) for k in range(60)]
    index = NearPictures()
    for k, likeness in enumerate(likenesses):
        assert index.find(likeness) is None, k
        index.add(str(k), likeness)


def icon(draw):
    image = Image.new("RGBA", (128, 128))
    draw(ImageDraw.Draw(image))
    return np.asarray(image)


def face(tone):
    def draw(d):
        d.ellipse((8, 8, 120, 120), fill=tone)
        d.ellipse((40, 45, 52, 60), fill=(40, 30, 20))
        d.ellipse((76, 45, 88, 60), fill=(40, 30, 20))

    return icon(draw)


def flag(colors):
    return icon(
        lambda d: [
            d.rectangle((4, 24 + 27 * k, 124, 50 + 27 * k), fill=c) for k, c in enumerate(colors)
        ]
    )


def clock(hour):
    turn = hour * np.pi / 6

    def draw(d):
        d.ellipse((6, 6, 122, 122), fill=(250, 250, 250), outline=(60, 60, 60), width=6)
        d.line((64, 64, 64 + 30 * np.sin(turn), 64 - 30 * np.cos(turn)), fill=(30, 30, 30), width=6)

    return icon(draw)


TONES = [(250, 220, 189), (224, 187, 149), (191, 143, 104), (155, 100, 61), (89, 69, 57)]
BANDS = list(itertools.permutations([(200, 20, 40), (255, 255, 255), (20, 60, 160)]))


COLOURS = [(200, 59, 40), (40, 110, 230), (20, 140, 90)]
"""of one brightness, which is all that hashes of brightness see"""


@pytest.mark.parametrize(
    "pictures",
    [
        [face(t) for t in TONES],
        [flag(c) for c in BANDS],
        [flag([c] * 3) for c in COLOURS],
        [clock(h) for h in range(12)],
    ],
    ids=["skin tones", "flags", "colours", "clocks"],
)
def test_pictures_that_differ_in_tint_or_a_hand_are_different(pictures):
    index = NearPictures()
    for k, pixels in enumerate(pictures):
        likeness = duplicates.picture_likeness(pixels)
        assert index.find(likeness) is None, k
        index.add(str(k), likeness)


def page(seed):
    """A page of random words, drawn as blocks: all pages have one layout."""
    rng = np.random.default_rng(seed)
    paper = np.full((877, 620, 3), 255, np.uint8)
    for y in range(60, 380, 16):
        x = 60
        while x < 540:
            width = int(rng.integers(12, 60))
            paper[y : y + 9, x : min(x + width, 560) : 2] = 40  # strokes, as letters have them
            x += width + 7
    return paper


def test_pages_of_one_layout_are_different_and_their_copies_are_found():
    likenesses = {str(k): duplicates.picture_likeness(page(k)) for k in range(8)}
    index = NearPictures()
    for name, likeness in likenesses.items():
        assert index.find(likeness) is None, name
        index.add(name, likeness)
    for change in ("JPEG", "half the size"):
        assert index.find(duplicates.picture_likeness(CHANGES[change](page(5)))) == "5"


def test_a_picture_of_another_shape_is_another():
    pixels = media_files.pixels(1, 160)
    wide = np.asarray(Image.fromarray(pixels).resize((200, 100)))
    likeness = duplicates.picture_likeness(pixels)
    assert found(NearPictures(), {"a": likeness}, duplicates.picture_likeness(wide)) is None


def through(values, kind):
    data = media_files.encoded_sound(values[:, None], kind, HZ)
    return soundfile.read(io.BytesIO(data), dtype="float32")[0]


SOUND_CHANGES = {
    "gain": lambda s: s * 0.2,
    "a cut of 7 ms": lambda s: s[112:],
    "the end cut": lambda s: s[:-400],
    "MP3": lambda s: through(s, "MP3"),
    "Ogg, cut and gain": lambda s: through(s, "OGG")[113:] * 0.5,
}


def sounds(seed):
    return media_files.samples(seed, 2.0, HZ)[:, 0].astype(np.float32)


@pytest.mark.parametrize("change", SOUND_CHANGES)
def test_a_copy_of_a_sound_is_found_among_others(change):
    likenesses = {str(k): duplicates.sound_likeness(sounds(k)) for k in range(12)}
    for name in ("0", "5", "11"):
        copy = duplicates.sound_likeness(SOUND_CHANGES[change](sounds(int(name))))
        assert found(NearSounds(), likenesses, copy) == name


def test_sounds_that_differ_in_a_quarter_of_a_second_are_different():
    """As two sentences do that differ in one word: most landmarks are the same."""
    first, other = sounds(1), sounds(2)
    mixed = first.copy()
    mixed[16_000:20_000] = other[4_000:8_000]
    likeness = duplicates.sound_likeness(first)
    assert found(NearSounds(), {"a": likeness}, duplicates.sound_likeness(mixed)) is None
    assert found(NearSounds(), {"a": likeness}, likeness) == "a"


def test_a_plain_tone_has_no_likeness():
    tone = np.sin(2 * np.pi * 440 * np.arange(HZ // 4) / HZ).astype(np.float32)
    assert duplicates.sound_likeness(tone) == b""


STORY = "옛날 옛적에 어느 깊은 산골에 나무꾼 하나가 늙은 어머니와 함께 살고 있었다 그는 날마다 산에 올라 나무를 하였다"


def test_texts_that_differ_in_signs_or_a_word_at_the_end_are_near():
    index = NearTexts()
    index.add("a", duplicates.text_bands(STORY))
    assert index.find(duplicates.text_bands(STORY.replace("살고 있었다", "살고 있었다.  "))) == "a"
    assert (
        index.find(duplicates.text_bands("A fox lived in the wood and ate berries all day")) is None
    )


def test_texts_that_differ_in_their_figures_are_different():
    index = NearTexts()
    index.add("a", duplicates.text_bands("the train to Busan leaves at 10 from track 4"))
    assert index.find(duplicates.text_bands("the train to Busan leaves at 12 from track 5")) is None


def test_a_text_of_few_words_has_no_bands():
    assert duplicates.text_bands("a red ball") == ()


def test_bands_are_datatroves_own():
    """One band per bucket of its signature, small enough for a column of int64."""
    bands = duplicates.text_bands(STORY)
    signature = duplicates._minhash().get_signature(duplicates._minhash().get_shingles(STORY))
    assert len(bands) == len(signature) == 14 and all(len(each) == 8 for each in signature)
    assert all(0 <= band < 2**63 for band in bands)
