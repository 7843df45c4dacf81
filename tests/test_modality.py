import itertools

from onnuri.modality import ATTRIBUTES, IMAGE_GRID, MEDIA, OBJECTS, TABLE, VIDEO_CHUNKS


def test_grids_stay_within_their_codebook_and_fields_do_not_overlap():
    for row in TABLE.values():
        if row.grid:
            assert all(0 <= lo < hi <= row.codes for lo, hi in row.grid.ranges)
            spans = sorted((row.grid.base(f.name), row.grid.base(f.name) + f.span) for f in row.grid.fields)
            assert all(a[1] == b[0] for a, b in itertools.pairwise(spans)) and spans[-1][1] == row.codes


def test_tokens_per_item_keep_to_the_issue():
    assert TABLE["image"].item_tokens <= 64 and TABLE["video"].item_tokens <= 320 and TABLE["shape"].item_tokens <= 64
    assert TABLE["audio"].tokens_per_second <= 25


def test_a_video_begins_as_its_first_frame():
    image, video = TABLE["image"].grid.ranges, TABLE["video"].grid.ranges
    assert video[: len(image)] == image and len(video) - len(image) == OBJECTS * VIDEO_CHUNKS
    assert TABLE["image"].codebook == TABLE["video"].codebook


def test_every_medium_carries_known_attributes():
    assert set(TABLE) == set(MEDIA)
    assert all(row.carries <= set(ATTRIBUTES) for row in TABLE.values())
    assert IMAGE_GRID.field("form").count == 4
