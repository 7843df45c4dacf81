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


def test_an_object_is_there_or_absent_in_all_its_codes():
    grid = TABLE["image"].grid
    each = (len(grid.ranges) - 4) // OBJECTS
    assert grid.leads == (None,) * 4 + tuple(4 + k * each for k in range(OBJECTS) for _ in range(each))
    video = TABLE["video"].grid.leads
    assert video == grid.leads + tuple(4 + k * each for _ in range(VIDEO_CHUNKS) for k in range(OBJECTS))
    shape = TABLE["shape"].grid.leads
    assert [k for k, v in enumerate(shape) if v == k] == [0, 11, 22] and shape[-1] == 22
