"""This module measures the quality of the codecs on scenes that they never saw, one card of figures
per modality; `docs/codecs.md` is written from it.

It knows no language model. Ground truth is rendered from test seeds (`seen`: compositions of
training, `held_out`: not). PSNR of 8-bit frames; SSIM after Wang et al. 2004 (scikit-image); STOI
after Taal et al. 2011 (pystoi, extra `dev`); Chamfer distance in world units: mean of both ways'
nearest distances between surface points.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.spatial import cKDTree
from skimage.metrics import structural_similarity

from onnuri.codecs.audio import log_mel
from onnuri.errors import ConfigError, DependencyError
from onnuri.evaluation.machine import machine
from onnuri.evaluation.pictures import psnr
from onnuri.files import check_place, write_json
from onnuri.media.mesh import mesh_of
from onnuri.modality import AUDIO_HZ, LANGUAGES
from onnuri.toyworld import audio as world_audio
from onnuri.toyworld import image as world_image
from onnuri.toyworld import mesh as world_mesh
from onnuri.toyworld import text as world_text
from onnuri.toyworld import video as world_video
from onnuri.toyworld.scene import Scene, Split, generator, sample_scene

SPLITS: tuple[Split, ...] = ("seen", "held_out")
Figures = dict[str, float]


def run(model: Any, items: int, path: Path | None) -> dict[str, Any]:
    """Measure every codec of a model, print the cards, and write them to `path` as JSON. Raises
    ConfigError for wrong options."""
    if items < 1:
        raise ConfigError(f"--items {items}", "at least one item is needed", "give 1 or more")
    check_place(path)
    cards = {"machine": machine(), **measure(model.codecs, items)}
    show(cards)
    if path:
        write_json(cards, path, indent=2)
    return cards


def measure(codecs: dict[str, Any], items: int) -> dict[str, Any]:
    """Return `{modality: {split: {figure: mean}}}`, with the number of codes in use over all of a
    modality's items."""
    cards: dict[str, Any] = {"items": items}
    for modality, measure_item in (
        ("image", _image),
        ("video", _video),
        ("audio", _audio),
        ("shape", _shape),
        ("text", _text),
    ):
        codes_used: set[int] = set()
        cards[modality] = {}
        for split in SPLITS:
            rows = []
            for seed in track(range(items), description=f"{modality} {split}", transient=True):
                figures, codes = measure_item(codecs[modality], sample_scene(seed, split))
                rows.append(figures)
                codes_used.update(int(c) for c in codes)
            cards[modality][split] = {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}
        cards[modality]["codes_in_use"] = len(codes_used)
        cards[modality]["codes"] = codecs[modality].num_codes
    return cards


def show(cards: dict[str, Any]) -> None:
    """Print the cards as a table."""
    table = Table("modality", "split", "figures", "codes in use")
    for modality, card in cards.items():
        if isinstance(card, dict):
            for split in SPLITS:
                figures = "  ".join(f"{k} {v:.3g}" for k, v in card[split].items())
                table.add_row(
                    modality, split, figures, f"{card['codes_in_use']} of {card['codes']}"
                )
    Console().print(table)


def _image(codec: Any, scene: Scene) -> tuple[Figures, np.ndarray]:
    """Return the figures of the image codec on a scene, and the codes."""
    truth = world_image.render(scene)
    codes = codec.encode(truth.image)
    decoded, mask = codec.decode(codes), truth.masks > 0
    whole, local = structural_similarity(truth.image, decoded, channel_axis=-1, full=True)
    return dict(
        psnr=psnr(truth.image, decoded),
        psnr_mask=psnr(truth.image, decoded, mask),
        ssim=float(whole),
        ssim_mask=float(local[mask].mean()),
    ), codes


def _video(codec: Any, scene: Scene) -> tuple[Figures, np.ndarray]:
    """Return the figures of the video codec on a scene, and the codes."""
    truth = world_video.render(scene)
    codes = codec.encode(truth.frames)
    decoded = codec.decode(codes)
    ssim = [
        structural_similarity(a, b, channel_axis=-1)
        for a, b in zip(truth.frames[::4], decoded[::4])
    ]
    return dict(
        psnr=psnr(truth.frames, decoded),
        psnr_mask=psnr(truth.frames, decoded, truth.masks > 0),
        ssim=float(np.mean(ssim)),
    ), codes


def _audio(codec: Any, scene: Scene) -> tuple[Figures, np.ndarray]:
    """Return the figures of the audio codec on a scene's caption, and the codes. Raises
    DependencyError without pystoi."""
    try:
        from pystoi import stoi
    except ImportError:
        raise DependencyError(
            "pystoi", "is needed to measure speech", "pip install 'onnuri[dev]'"
        ) from None
    rng = generator("seen", scene.seed)
    language = LANGUAGES[scene.seed % 2]
    truth = world_audio.speak(
        world_text.caption(scene, language, rng), language, world_audio.sample_voice(rng)
    )
    codes = codec.encode(truth)
    decoded = codec.decode(codes)
    length = min(len(truth), len(decoded))
    truth, decoded = truth[:length], decoded[:length]
    return dict(
        log_mel_error=float(np.abs(log_mel(truth) - log_mel(decoded)).mean()),
        stoi=float(stoi(truth, decoded, AUDIO_HZ)),
        seconds=length / AUDIO_HZ,
    ), codes


def _shape(codec: Any, scene: Scene) -> tuple[Figures, np.ndarray]:
    """Return the figures of the shape codec on a scene, and the codes."""
    truth = world_mesh.voxels(scene)
    codes = codec.encode(truth)
    decoded = codec.decode(codes)
    a, b = truth[..., 3] > 127, decoded[..., 3] > 127
    both = a & b
    color = (
        np.abs(truth[both, :3].astype(float) - decoded[both, :3]).mean() / 255
        if both.any()
        else 1.0
    )
    return dict(
        iou=float(both.sum() / max((a | b).sum(), 1)),
        chamfer=_chamfer(truth, decoded),
        color_error=float(color),
    ), codes


def _chamfer(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Chamfer distance in world units between the surfaces of two grids of voxels; 2 if
    the second is empty."""
    if not (b[..., 3] > 127).any():
        return 2.0
    points_a, points_b = mesh_of(a).vertices, mesh_of(b).vertices
    return float(
        (cKDTree(points_b).query(points_a)[0].mean() + cKDTree(points_a).query(points_b)[0].mean())
        / 2
    )


def _text(codec: Any, scene: Scene) -> tuple[Figures, np.ndarray]:
    """Return the figures of the text codec on a scene's captions in both languages, and the
    codes."""
    figures, all_codes = {}, []
    for language in LANGUAGES:
        text = world_text.caption(scene, language, generator("seen", scene.seed))
        codes = codec.encode(text)
        figures[f"tokens_per_character_{language}"] = len(codes) / len(text)
        figures[f"tokens_{language}"] = float(len(codes))
        figures["exact"] = float(codec.decode(codes) == text)
        all_codes.append(codes)
    return figures, np.concatenate(all_codes)


def markdown(cards: dict[str, Any]) -> str:
    """Return the cards as Markdown tables, for `docs/codecs.md`."""
    lines = []
    for modality, card in cards.items():
        if isinstance(card, dict):
            names = list(card["seen"])
            lines += [
                f"### {modality}",
                "",
                f"Codes in use: {card['codes_in_use']} of {card['codes']}.",
                "",
                "| split | " + " | ".join(names) + " |",
                "|---" * (len(names) + 1) + "|",
            ]
            lines += [
                f"| {s} | " + " | ".join(f"{card[s][n]:.4g}" for n in names) + " |" for s in SPLITS
            ] + [""]
    return "\n".join(lines)
