"""Pictures for training the visual codec: a pool rendered once, batches as a function of the step,
and the loss.

Knows the world and the codec, not the language model. A pool is a folder of memory-mapped arrays:
`images` uint8 [N, 128, 128, 3], `masks` uint8 [N, 128, 128], `boxes` float32 [N, 3, 4] (zeros: no
object), `paths` float32 [M, 16].
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
    """Render scenes, half of them at a moment of their motion; goes on where it was left."""
    build(folder, scenes, render_row, workers, "pictures")


def render_row(seed: int) -> dict[str, np.ndarray]:
    """One scene's row of the pool."""
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
    """Boxes float32 [3, 4] of a mask uint8 [H, W]: centroid and extent in pixels; zeros where there
    is no object."""
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
    """One object's path in one chunk, float32 [1, 16], with the jitter of detection; a fifth are
    random and smooth."""
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
    made = path_of(
        torch.from_numpy(boxes[None, 1:]).float(), torch.from_numpy(boxes[None, 0]).float()
    )
    return made.numpy()


class VisualObjective:
    """Trains a `Visual` from a pool."""

    def __init__(self, module: Visual, folder: Path, size: int = 32, seed: int = 0) -> None:
        self.module, self.size, self.seed = module, size, seed
        self.columns = {
            n: np.load(folder / f"{n}.npy", mmap_mode="r")
            for n in ("images", "masks", "boxes", "paths")
        }

    def batch(self, step: int) -> dict[str, Tensor]:
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
        return visual_loss(self.module, batch)


def visual_loss(visual: Visual, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Everything at once: finding, boxes, forms, colours, background, paths. Figures in decibels
    and pixels."""
    pictures, masks, boxes = batch["pictures"], batch["masks"], batch["boxes"]
    there = boxes[..., 2] > 0
    found, foreground = finder_loss(visual, pictures, masks, boxes, there)
    rough = torch.where(there[..., None], boxes, torch.tensor([64.0, 64.0, 20.0, 20.0])).flatten(
        0, 1
    )
    noise = torch.randn_like(rough) * 0.06
    rough = torch.cat(
        [rough[:, :2] + noise[:, :2] * rough[:, 2:], rough[:, 2:] * torch.exp(noise[:, 2:])], 1
    )
    refined = visual.refine(cut(pictures, foreground, rough), rough)
    there_flat = there.flatten()
    offset = ((refined - boxes.flatten(0, 1))[there_flat]).abs().mean()
    crops = cut(pictures, foreground, refined)
    form = visual.form_codes(visual.form(repaint(crops)))
    kept = torch.randint(1, 5, (len(form), 1, 1)).clamp(max=4)
    kept = torch.where(torch.rand(len(form), 1, 1) < 0.7, 4, kept)
    form = form * (torch.arange(4)[:, None] < kept)  # nested dropout (Rippel et al. 2014)
    sprites = (
        visual.sprites(form, visual.form_codes(visual.color(crops)))
        * there_flat[:, None, None, None]
    )
    layers = place(sprites, refined).view(-1, OBJECTS, 4, IMAGE_SIZE, IMAGE_SIZE)
    behind = visual.paint_background(visual.form_codes(visual.background(pictures, foreground)))
    error = (composite(behind, layers) - pictures) ** 2
    inside = (masks > 0)[:, None]
    near = F.max_pool2d(inside.float(), 5, 1, 2)
    whole, local = error.mean(), (error * near).sum() / (3 * near.sum() + 1)
    own = torch.stack([masks == k + 1 for k in range(OBJECTS)], 1).float()
    silhouette = (((layers.split((3, 1), 2)[1][:, :, 0] - own) ** 2) * near).sum() / (
        near.sum() + 1
    )
    path = F.smooth_l1_loss(
        visual.path_decoder(visual.path_codes(visual.path_encoder(batch["paths"]))),
        batch["paths"],
        beta=0.05,
    )
    behind_error = (((behind - pictures) ** 2) * (1 - near)).mean()
    loss = (
        20 * whole + 10 * local + silhouette + 40 * behind_error + found + 0.1 * offset + 3 * path
    )
    inner = (error * inside).sum() / (3 * inside.sum() + 1)
    return loss, {
        "psnr": decibels(whole),
        "psnr_mask": decibels(inner),
        "find": float(found.detach()),
        "offset_px": float(offset.detach()),
        "path": float(path.detach()),
        "silhouette": float(silhouette.detach()),
    }


def finder_loss(
    visual: Visual, pictures: Tensor, masks: Tensor, boxes: Tensor, there: Tensor
) -> tuple[Tensor, Tensor]:
    """Focal loss of the heat map, L1 of boxes at their centres, cross-entropy of the foreground;
    and the foreground."""
    heat, placed, mask = visual.finder(pictures)
    cells = torch.arange(32) * 4 + 2.0
    gap = ((cells - boxes[..., 0:1]) ** 2)[:, :, None, :] + ((cells - boxes[..., 1:2]) ** 2)[
        ..., None
    ]
    bump = torch.exp(-gap / (2 * 5.0**2)) * there[..., None, None]
    target = bump.amax(1)
    target = torch.where(target > 0.85, 1.0, target)
    p = torch.sigmoid(heat).clamp(1e-4, 1 - 1e-4)
    focal = -torch.where(
        target == 1, (1 - p) ** 2 * p.log(), (1 - target) ** 4 * p**2 * (1 - p).log()
    )
    column = (boxes[..., 0] / 4).long().clamp(0, 31)
    row = (boxes[..., 1] / 4).long().clamp(0, 31)
    one = torch.arange(len(boxes))[:, None].expand_as(row)[there]
    at = placed[one, :, row[there], column[there]]
    goal = boxes[there]
    box = (at[:, :2] - goal[:, :2]).abs().mean() + 8 * (at[:, 2:] / goal[:, 2:]).log().abs().mean()
    small = F.avg_pool2d((masks > 0).float()[:, None], 2)
    cover = F.binary_cross_entropy_with_logits(mask, small)
    return focal.sum() / there.sum() / 10 + 0.1 * box + cover, torch.sigmoid(mask).detach()


def repaint(crops: Tensor) -> Tensor:
    """Crops with their channels shuffled and scaled at random, so that a form says nothing of
    colour."""
    order = torch.stack([torch.randperm(3) for _ in range(8)])[torch.randint(8, (len(crops),))]
    gain = 0.7 + 0.6 * torch.rand(len(crops), 3, 1, 1)
    shuffled = crops[:, :3].gather(1, order[..., None, None].expand_as(crops[:, :3]))
    return torch.cat([(shuffled * gain).clamp(0, 1), crops[:, 3:]], 1)


def decibels(error: Tensor) -> float:
    return float(-10 * torch.log10(error.detach() + 1e-9))
