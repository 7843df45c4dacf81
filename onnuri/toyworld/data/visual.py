"""This module provides pictures for training the visual codec: a pool that is rendered once,
batches as a function of the step, and the loss.

It knows the world and the codec, not the language model. A pool is a folder of memory-mapped
arrays: `images` uint8 [N, 128, 128, 3], `masks` uint8 [N, 128, 128], `boxes` float32 [N, 3, 4]
(zeros: no object), `paths` float32 [M, 16].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onnuri.data.pool import build
from onnuri.modality import IMAGE_SIZE, VIDEO_FPS
from onnuri.toyworld import image
from onnuri.toyworld.codecs.image import cut
from onnuri.toyworld.codecs.objects import OBJECTS
from onnuri.toyworld.codecs.sprites import place
from onnuri.toyworld.codecs.video import CHUNK, path_of
from onnuri.toyworld.codecs.visual import VIDEO_CHUNKS, Visual, composite
from onnuri.toyworld.scene import SECONDS, Scene, generator, sample_scene


def make_pool(folder: Path, scenes: int, workers: int = 2) -> None:
    """Build a pool of so many scenes, half of them at a random moment of their motion; an
    interrupted build is resumed."""
    build(folder, scenes, render_row, workers, "pictures")


def render_row(seed: int) -> dict[str, np.ndarray]:
    """Return one row of the pool: the picture, masks, boxes and one path of a scene."""
    scene, rng = sample_scene(seed), generator("train", seed)
    rendered = image.render(
        scene, seconds=float(rng.uniform(0, SECONDS)) if rng.random() < 0.5 else 0.0
    )
    return {
        "images": rendered.image,
        "masks": rendered.masks,
        "boxes": boxes_of_masks(rendered.masks),
        "paths": scene_paths(scene, rng),
    }


def boxes_of_masks(masks: np.ndarray) -> np.ndarray:
    """Return the boxes float32 [3, 4] (centroid and extent in pixels) of a mask uint8 [H, W]; zeros
    where there is no object."""
    boxes = np.zeros((OBJECTS, 4), dtype=np.float32)
    for k in range(OBJECTS):
        rows, columns = np.nonzero(masks == k + 1)
        if len(rows):
            boxes[k] = (
                columns.mean() + 0.5,
                rows.mean() + 0.5,
                np.ptp(columns) + 1,
                np.ptp(rows) + 1,
            )
    return boxes


def scene_paths(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Return one object's path in one chunk of video, float32 [1, 16], with the jitter of
    detection; a fifth of the paths are random and smooth instead."""
    thing = scene.things[int(rng.integers(len(scene.things)))]
    chunk = int(rng.integers(VIDEO_CHUNKS))
    places = np.array(
        [thing.place(k / VIDEO_FPS) for k in range(CHUNK * chunk, CHUNK * chunk + CHUNK + 1)]
    )
    side = thing.radius * 128
    boxes = np.stack(
        [
            64 + 64 * (thing.x + places[:, 0]),
            64 - 64 * (thing.z + places[:, 1]),
            side * places[:, 2],
            side * places[:, 2],
        ],
        1,
    )
    if rng.random() < 0.2:
        steps = np.cumsum(rng.normal(size=4) * (2.5, 2.5, 0, 0) + np.zeros((CHUNK + 1, 4)), 0)
        boxes = boxes[:1] + steps
    boxes = boxes + rng.normal(size=boxes.shape) * 0.25
    paths = path_of(
        torch.from_numpy(boxes[None, 1:]).float(), torch.from_numpy(boxes[None, 0]).float()
    )
    return paths.numpy()


class VisualObjective:
    """A VisualObjective trains a `Visual` on pictures and paths from a pool."""

    def __init__(self, module: Visual, folder: Path, size: int = 32, seed: int = 0) -> None:
        self.module, self.size, self.seed = module, size, seed
        self.columns = {
            n: np.load(folder / f"{n}.npy", mmap_mode="r")
            for n in ("images", "masks", "boxes", "paths")
        }

    def batch(self, step: int) -> dict[str, Tensor]:
        """Return the batch of a step: pictures float32 [size, 3, 128, 128], masks, boxes and 8 ·
        size paths."""
        rng = np.random.default_rng([self.seed, step])
        rows = np.sort(rng.integers(len(self.columns["images"]), size=self.size))
        paths = np.sort(rng.integers(len(self.columns["paths"]), size=8 * self.size))
        return {
            "pictures": torch.from_numpy(self.columns["images"][rows]).permute(0, 3, 1, 2).float()
            / 255,
            "masks": torch.from_numpy(self.columns["masks"][rows]),
            "boxes": torch.from_numpy(self.columns["boxes"][rows]),
            "paths": torch.from_numpy(self.columns["paths"][paths])[:, 0],
        }

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Return the loss [] of a batch and its metrics."""
        return visual_loss(self.module, batch)


def visual_loss(visual: Visual, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Return the loss [] of all parts of the visual codec on one batch (finder, boxes, forms,
    colours, background, paths), and its metrics in decibels and pixels."""
    pictures, masks, boxes = batch["pictures"], batch["masks"], batch["boxes"]
    present = boxes[..., 2] > 0
    finder_error, foreground = finder_loss(visual, pictures, masks, boxes, present)
    noisy_boxes = torch.where(
        present[..., None], boxes, torch.tensor([64.0, 64.0, 20.0, 20.0])
    ).flatten(0, 1)
    noise = torch.randn_like(noisy_boxes) * 0.06
    noisy_boxes = torch.cat(
        [
            noisy_boxes[:, :2] + noise[:, :2] * noisy_boxes[:, 2:],
            noisy_boxes[:, 2:] * torch.exp(noise[:, 2:]),
        ],
        1,
    )
    refined = visual.refine(cut(pictures, foreground, noisy_boxes), noisy_boxes)
    present_flat = present.flatten()
    offset = ((refined - boxes.flatten(0, 1))[present_flat]).abs().mean()
    crops = cut(pictures, foreground, refined)
    form = visual.form_codes(visual.form(repaint(crops)))
    form_count = torch.randint(1, 5, (len(form), 1, 1)).clamp(max=4)
    form_count = torch.where(torch.rand(len(form), 1, 1) < 0.7, 4, form_count)
    form = form * (torch.arange(4)[:, None] < form_count)  # nested dropout (Rippel et al. 2014)
    sprites = (
        visual.sprites(form, visual.form_codes(visual.color(crops)))
        * present_flat[:, None, None, None]
    )
    layers = place(sprites, refined).view(-1, OBJECTS, 4, IMAGE_SIZE, IMAGE_SIZE)
    behind = visual.paint_background(visual.form_codes(visual.background(pictures, foreground)))
    error = (composite(behind, layers) - pictures) ** 2
    inside = (masks > 0)[:, None]
    near_objects = F.max_pool2d(inside.float(), 5, 1, 2)
    whole, local = error.mean(), (error * near_objects).sum() / (3 * near_objects.sum() + 1)
    own_masks = torch.stack([masks == k + 1 for k in range(OBJECTS)], 1).float()
    silhouette = (((layers.split((3, 1), 2)[1][:, :, 0] - own_masks) ** 2) * near_objects).sum() / (
        near_objects.sum() + 1
    )
    path = F.smooth_l1_loss(
        visual.path_decoder(visual.path_codes(visual.path_encoder(batch["paths"]))),
        batch["paths"],
        beta=0.05,
    )
    behind_error = (((behind - pictures) ** 2) * (1 - near_objects)).mean()
    loss = (
        20 * whole
        + 10 * local
        + silhouette
        + 40 * behind_error
        + finder_error
        + 0.1 * offset
        + 3 * path
    )
    inner = (error * inside).sum() / (3 * inside.sum() + 1)
    return loss, {
        "psnr": decibels(whole),
        "psnr_mask": decibels(inner),
        "find": float(finder_error.detach()),
        "offset_px": float(offset.detach()),
        "path": float(path.detach()),
        "silhouette": float(silhouette.detach()),
    }


def finder_loss(
    visual: Visual, pictures: Tensor, masks: Tensor, boxes: Tensor, present: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the finder's loss [] and the foreground [B, 1, 64, 64] that it predicts.

    The loss is the focal loss of the heat map, L1 of the boxes at their centres and cross-entropy
    of the foreground.
    """
    heat, placed_boxes, mask = visual.finder(pictures)
    cells = torch.arange(32) * 4 + 2.0
    gap = ((cells - boxes[..., 0:1]) ** 2)[:, :, None, :] + ((cells - boxes[..., 1:2]) ** 2)[
        ..., None
    ]
    bump = torch.exp(-gap / (2 * 5.0**2)) * present[..., None, None]
    target = bump.amax(1)
    target = torch.where(target > 0.85, 1.0, target)
    probability = torch.sigmoid(heat).clamp(1e-4, 1 - 1e-4)
    focal = -torch.where(
        target == 1,
        (1 - probability) ** 2 * probability.log(),
        (1 - target) ** 4 * probability**2 * (1 - probability).log(),
    )
    column = (boxes[..., 0] / 4).long().clamp(0, 31)
    row = (boxes[..., 1] / 4).long().clamp(0, 31)
    pictures_index = torch.arange(len(boxes))[:, None].expand_as(row)[present]
    predicted = placed_boxes[pictures_index, :, row[present], column[present]]
    target_boxes = boxes[present]
    box = (predicted[:, :2] - target_boxes[:, :2]).abs().mean() + 8 * (
        predicted[:, 2:] / target_boxes[:, 2:]
    ).log().abs().mean()
    small = F.avg_pool2d((masks > 0).float()[:, None], 2)
    cover = F.binary_cross_entropy_with_logits(mask, small)
    return focal.sum() / present.sum() / 10 + 0.1 * box + cover, torch.sigmoid(mask).detach()


def repaint(crops: Tensor) -> Tensor:
    """Return crops [N, 4, 40, 40] with their colour channels shuffled and scaled at random, so that
    a form code learns nothing of colour."""
    order = torch.stack([torch.randperm(3) for _ in range(8)])[torch.randint(8, (len(crops),))]
    gain = 0.7 + 0.6 * torch.rand(len(crops), 3, 1, 1)
    shuffled = crops[:, :3].gather(1, order[..., None, None].expand_as(crops[:, :3]))
    return torch.cat([(shuffled * gain).clamp(0, 1), crops[:, 3:]], 1)


def decibels(error: Tensor) -> float:
    """Return the PSNR in decibels of a mean squared error []."""
    return float(-10 * torch.log10(error.detach() + 1e-9))
