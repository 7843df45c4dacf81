"""Losses of the codecs against sums that are written again in NumPy: every term, its weight and
what it leaves out.

Networks are replaced by functions whose values are known, so that nothing here depends on weights.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from onnuri.codecs.audio import AudioCodec, mel_filters
from onnuri.toyworld.codecs.mesh import ShapeCodec
from onnuri.toyworld.data import visual as visual_data
from onnuri.toyworld.data.visual import boxes_of_masks, decibels, finder_loss, repaint, visual_loss


def magnitudes(sound, window, hop):
    """|STFT| [bins, frames] of a sound [T] by NumPy, centred as the codec's is."""
    edge = (window - hop) // 2
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sound, edge), window)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(window + 1)[:-1])).T


def test_the_audio_loss_is_log_mel_and_three_spectra(monkeypatch):
    rng = np.random.default_rng(0)
    truth, made = (0.1 * rng.standard_normal((2, 6400)) for _ in range(2))
    codec = AudioCodec(AudioCodec.Config(fine=16, coarse=16, fine_blocks=2, coarse_blocks=1))
    monkeypatch.setattr(codec, "render", lambda values: torch.from_numpy(made).float())
    loss, figures = codec.training_loss({"audio": torch.from_numpy(truth).float()})

    def log_mels(sounds):
        return np.stack(
            [np.log(mel_filters().numpy() @ magnitudes(s, 640, 160) + 1e-2) for s in sounds]
        )

    mel = np.abs(log_mels(truth) - log_mels(made)).mean()
    expected = mel
    for window in (256, 512, 1024):
        a, b = (
            np.stack([magnitudes(s, window, window // 4) for s in sounds])
            for sounds in (truth, made)
        )
        expected += 0.3 * np.abs(np.log(a + 1e-2) - np.log(b + 1e-2)).mean()
        expected += 0.3 * np.linalg.norm(a - b) / np.linalg.norm(a)
    assert figures["log_mel_error"] == pytest.approx(mel, rel=1e-4)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_the_shape_loss_is_cross_entropy_and_dice(monkeypatch):
    torch.manual_seed(0)
    logits, truth = torch.randn(6, 24, 24, 24), torch.rand(6, 24, 24, 24)
    codec, forms = ShapeCodec(ShapeCodec.Config(width=4)), []
    codec.form = lambda crops: torch.ones(
        len(crops), 4, 3
    )  # what nested dropout leaves of it is seen below
    codec.fsq = torch.nn.Identity()
    codec.solid = lambda form: forms.append(form) or logits
    loss, figures = codec.training_loss({"crops": truth})
    p, t = (x.double().numpy() for x in (torch.sigmoid(logits), truth))
    entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    dice = np.mean(
        [1 - 2 * (a * b).sum() / ((a**2).sum() + (b**2).sum()) for a, b in zip(p, t, strict=True)]
    )
    assert float(loss) == pytest.approx(entropy + dice, rel=1e-5)
    kept = forms[0][..., 0].numpy()  # [6, 4]: ones, then zeros
    full = kept.sum(1) == 4
    assert (
        set(kept.sum(1)) <= {1, 2, 3, 4}
        and (np.sort(kept, 1)[:, ::-1] == kept).all()
        and full.any()
    )
    a, b = p[full] > 0.5, t[full] > 0.5
    assert figures["iou"] == pytest.approx((a & b).sum() / (a | b).sum())


def test_nested_dropout_keeps_all_codes_most_often():
    codec, counts = ShapeCodec(ShapeCodec.Config(width=4)), []
    codec.form = lambda crops: torch.ones(len(crops), 4, 3)
    codec.fsq = torch.nn.Identity()
    codec.solid = lambda form: (
        counts.append(form[..., 0].sum(1)) or torch.zeros(len(form), 24, 24, 24)
    )
    torch.manual_seed(1)
    codec.training_loss({"crops": torch.zeros(2000, 24, 24, 24)})
    share = torch.bincount(counts[0].long(), minlength=5) / 2000  # 0.7 + 0.3 / 4 keep all
    assert share[0] == 0 and float(share[4]) == pytest.approx(0.775, abs=0.04)
    assert all(float(share[k]) == pytest.approx(0.075, abs=0.03) for k in (1, 2, 3))


BOXES = torch.tensor(
    [
        [[30.0, 40.0, 20.0, 30.0], [90.0, 60.0, 40.0, 12.0], [0.0, 0.0, 0.0, 0.0]],
        [[64.0, 100.0, 50.0, 16.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]],
    ]
)
"""two pictures of two objects and of one: centre x, centre y, width, height in pixels"""


def masks_of(boxes):
    """uint8 [B, 128, 128]: object k of a picture is the rectangle k + 1."""
    masks = np.zeros((len(boxes), 128, 128), np.uint8)
    for mask, rows in zip(masks, boxes.tolist(), strict=True):
        for k, (x, y, w, h) in enumerate(rows):
            mask[int(y - h / 2) : int(y + h / 2), int(x - w / 2) : int(x + w / 2)] = (k + 1) * (
                w > 0
            )
    return torch.from_numpy(masks)


def test_the_finders_loss_is_focal_boxes_and_cover():
    torch.manual_seed(0)
    heat, placed, mask = (
        torch.randn(2, 32, 32),
        20 + 40 * torch.rand(2, 4, 32, 32),
        torch.randn(2, 1, 64, 64),
    )
    visual, masks = SimpleNamespace(finder=lambda pictures: (heat, placed, mask)), masks_of(BOXES)
    loss, foreground = finder_loss(
        visual, torch.zeros(2, 3, 128, 128), masks, BOXES, BOXES[..., 2] > 0
    )
    focal, distances, sides, objects = 0.0, [], [], 0
    for b in range(2):
        target = np.zeros((32, 32))
        for x, y, w, h in BOXES[b].tolist():
            if w:
                objects += 1
                cells = np.arange(32) * 4 + 2
                target = np.maximum(
                    target, np.exp(-((cells[None] - x) ** 2 + (cells[:, None] - y) ** 2) / 50)
                )
                at = placed[b, :, int(y // 4), int(x // 4)].numpy()
                distances += [abs(at[0] - x), abs(at[1] - y)]
                sides += [abs(math.log(at[2] / w)), abs(math.log(at[3] / h))]
        p = 1 / (1 + np.exp(-heat[b].double().numpy()))
        here = target > 0.85
        focal -= ((1 - p) ** 2 * np.log(p))[here].sum()
        focal -= ((1 - target) ** 4 * p**2 * np.log(1 - p))[~here].sum()
    full = (masks > 0).double().numpy().reshape(2, 64, 2, 64, 2).mean((2, 4))
    q = 1 / (1 + np.exp(-mask[:, 0].double().numpy()))
    cover = -(full * np.log(q) + (1 - full) * np.log(1 - q)).mean()
    expected = focal / objects / 10 + 0.1 * (np.mean(distances) + 8 * np.mean(sides)) + cover
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert (
        torch.allclose(foreground[:, 0], torch.from_numpy(q).float(), atol=1e-5)
        and not foreground.requires_grad
    )


class Painted:
    """A `Visual` whose parts are known: no object is drawn, or each is a full square of one
    colour."""

    def __init__(self, drawn: float):
        self.drawn, self.boxes = drawn, []
        self.form_codes = self.path_codes = self.path_encoder = lambda x: x
        self.path_decoder = lambda x: x + 0.2

    def refine(self, crops, boxes):
        self.boxes.append(boxes)
        return BOXES.flatten(0, 1) + 2.0  # two pixels beside the truth in every number

    def form(self, crops):
        return torch.ones(len(crops), 4, 3)

    def color(self, crops):
        return torch.ones(len(crops), 3)

    def sprites(self, form, color):
        return torch.full((len(form), 4, 40, 40), self.drawn)

    def background(self, pictures, mask):
        return torch.zeros(len(pictures), 4, 3)

    def paint_background(self, quantized):
        return torch.full((len(quantized), 3, 128, 128), 0.4)


def near_of(masks):
    """Within two pixels of an object, by shifting."""
    inside = np.pad((masks > 0).numpy(), ((0, 0), (2, 2), (2, 2)))
    return np.any([inside[:, i : i + 128, j : j + 128] for i in range(5) for j in range(5)], 0)


def test_the_visual_loss_is_the_sum_of_its_terms(monkeypatch):
    monkeypatch.setattr(
        visual_data, "finder_loss", lambda *_: (torch.tensor(0.5), torch.zeros(2, 1, 64, 64))
    )
    torch.manual_seed(0)
    pictures, masks = torch.rand(2, 3, 128, 128), masks_of(BOXES)
    paths = torch.zeros(5, 16)
    visual = Painted(0.0)
    batch = {"pictures": pictures, "masks": masks, "boxes": BOXES, "paths": paths}
    loss, figures = visual_loss(visual, batch)
    error, near = ((pictures.numpy() - 0.4) ** 2).astype(float), near_of(masks)
    inside = (masks > 0).numpy()
    whole, local = error.mean(), (error * near[:, None]).sum() / (3 * near.sum() + 1)
    own = np.stack([(masks == k + 1).numpy() for k in range(3)], 1).astype(float)
    silhouette = (own**2 * near[:, None]).sum() / (near.sum() + 1)
    behind = (error * ~near[:, None]).mean()
    path = 0.2 - 0.05 / 2  # smooth L1 with beta 0.05 of 0.2 everywhere
    expected = 20 * whole + 10 * local + silhouette + 40 * behind + 0.5 + 0.1 * 2.0 + 3 * path
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert figures["psnr"] == pytest.approx(-10 * math.log10(whole), rel=1e-5)
    inner = (error * inside[:, None]).sum() / (3 * inside.sum() + 1)
    assert figures["psnr_mask"] == pytest.approx(-10 * math.log10(inner), rel=1e-5)
    assert figures["offset_px"] == pytest.approx(2.0) and figures["path"] == pytest.approx(path)
    assert figures["silhouette"] == pytest.approx(silhouette, rel=1e-5) and figures["find"] == 0.5
    rough = visual.boxes[0].view(
        2, 3, 4
    )  # boxes to refine are the true ones, moved by some per cent
    there = BOXES[..., 2] > 0
    assert 0 < (rough / BOXES - 1)[there].abs().max() < 0.5
    assert torch.allclose(rough[~there].mean(0), torch.tensor([64.0, 64.0, 20.0, 20.0]), rtol=0.2)


def test_what_is_drawn_lies_under_its_box_and_absent_objects_are_not_drawn(monkeypatch):
    monkeypatch.setattr(
        visual_data, "finder_loss", lambda *_: (torch.tensor(0.0), torch.zeros(2, 1, 64, 64))
    )
    pictures, masks = torch.zeros(2, 3, 128, 128), masks_of(BOXES)
    batch = {"pictures": pictures, "masks": masks, "boxes": BOXES, "paths": torch.zeros(1, 16)}
    _, empty = visual_loss(Painted(0.0), batch)
    _, drawn = visual_loss(Painted(1.0), batch)  # alpha 1 over the whole sprite: 1.2 times the box
    assert drawn["silhouette"] < 0.6 * empty["silhouette"]
    nothing = {**batch, "masks": torch.zeros_like(masks), "boxes": torch.zeros_like(BOXES)}
    nothing["boxes"][0, 0] = BOXES[0, 0]
    _, one = visual_loss(Painted(1.0), nothing)
    _, none = visual_loss(Painted(0.0), nothing)
    assert one["psnr"] != none["psnr"]


def test_boxes_of_masks_are_centroid_and_extent():
    masks = masks_of(BOXES)
    for mask, boxes in zip(masks.numpy(), BOXES.numpy(), strict=True):
        np.testing.assert_allclose(boxes_of_masks(mask), boxes, atol=1e-5)


def test_repainted_crops_keep_the_silhouette_and_shuffle_and_scale_colours():
    torch.manual_seed(2)
    crops = torch.rand(200, 4, 4, 4) * torch.tensor([0.1, 0.3, 0.5, 1.0])[:, None, None]
    made = repaint(crops)
    assert torch.equal(made[:, 3], crops[:, 3]) and made.shape == crops.shape
    orders = set()
    for before, after in zip(crops[:, :3], made[:, :3], strict=True):
        gains = (after[:, None] / before[None]).flatten(
            2
        )  # [made channel, given channel, pixels]: constant for its origin
        origin = gains.std(2).argmin(1)
        orders.add(tuple(origin.tolist()))
        assert sorted(origin.tolist()) == [0, 1, 2]
        gain = gains.mean(2)[range(3), origin]
        assert ((gain > 0.69) & (gain < 1.31)).all()
    assert 2 < len(orders) <= 6


def test_decibels_are_of_a_mean_square():
    assert decibels(torch.tensor(0.01)) == pytest.approx(20.0, abs=1e-4)
