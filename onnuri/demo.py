"""This module implements `onnuri demo` and `onnuri generate`: files and sentences in, files out,
and a page that shows them.

It knows no codec and no network: a model generates media, `media/` reads and writes them. The
page works offline: media are in it as data URIs, and the 3D viewer is a script beside it.
"""

from __future__ import annotations

import base64
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from onnuri import shipped
from onnuri.errors import ConfigError, MediaError
from onnuri.files import make_folder, rendered
from onnuri.inference.device import DeviceName
from onnuri.media import reading, writing
from onnuri.media.formats import check_suffix
from onnuri.modality import MEDIA, TABLE, Language, Modality
from onnuri.model.omni import Reply
from onnuri.resident import resident_bytes

WEB = Path(__file__).parent / "server" / "web"
VIEWER = "model-viewer-umd.min.js"
SHOWN: tuple[Modality, ...] = ("image", "audio", "video", "shape")
"""modalities that the demo generates from a sentence"""


def check_sentence(sentence: str) -> str:
    """Return a sentence without spaces around it. Raises MediaError for an empty one."""
    if not sentence.strip():
        raise MediaError(
            "an empty sentence", "says nothing to show", 'give one such as "a small red sphere"'
        )
    return sentence.strip()


def run(
    sentence: str,
    out: Path,
    folder: Path | None = None,
    device: DeviceName = "cpu",
    **sampling: Any,
) -> None:
    """Write picture, speech, video, 3D model and index.html of one sentence to the folder `out`.

    `folder` is the model's; without one, the model that ships. `device` is where it decodes. Raises
    OnnuriError.
    """
    sentence = check_sentence(sentence)
    console, start = Console(), time.perf_counter()
    models, inputs = shipped(folder, device=device), [("text", sentence)]
    name = models.choose(SHOWN, inputs)
    model = models.model(name)
    loading = time.perf_counter() - start
    had = [modality for modality in SHOWN if modality in model.layout.names]
    make_folder(out)
    files: dict[Modality, Path] = {}
    for modality in had:
        item_start = time.perf_counter()
        reply = model.reply(modality, inputs, **sampling)
        item = reply.item
        writing.check_answer(item, modality)
        files[modality] = out / f"{modality}{TABLE[modality].suffixes[0]}"
        writing.write(item, files[modality])
        console.print(f"  {modality:6} {files[modality]}  {time.perf_counter() - item_start:.2f} s")
    shutil.copyfile(WEB / VIEWER, out / VIEWER)
    writing.write(page(sentence, files), out / "index.html")
    tell(reply)
    if len(had) < len(SHOWN):
        rest = ", ".join(sorted({*SHOWN} - {*had}))
        console.print(f"  {name} draws this; {rest}: only of a sentence that another model knows")
    seconds, memory = time.perf_counter() - start, resident_bytes("VmHWM") / 1e9
    cost = f"{seconds:.1f} s, {loading:.1f} of them to load the model; {memory:.1f} GB of memory"
    console.print(f"open {out / 'index.html'}  ({cost})")


def generate(
    to: Modality,
    output: Path,
    files: list[tuple[Modality, Path]],
    text: str | None,
    language: Language | None,
    folder: Path | None = None,
    device: DeviceName = "cpu",
    **sampling: Any,
) -> None:
    """Write one file of modality `to`, generated from any mix of files and a sentence.

    `folder` is the model's; without one, the model that ships. `device` is where it decodes. Raises
    OnnuriError before anything is written.
    """
    check_suffix(output, to)
    inputs: list[tuple[str, Any]] = [reading.take_file(path, modality) for modality, path in files]
    if text is not None:
        inputs.append(("text", check_sentence(text)))
    if not inputs:
        raise ConfigError(
            "no input",
            "something must be given to start from",
            'add --text "…" or a file with --image, --audio, --video or --shape',
        )
    reply = shipped(folder, device=device).reply(to, inputs, language=language, **sampling)
    writing.check_answer(reply.item, to)
    writing.write(reply.item, output)
    print(reply.item if to == "text" else f"wrote {output}")
    tell(reply)
    if reply.model:
        print(f"onnuri: answered by {reply.model}", file=sys.stderr)


def tell(reply: Reply) -> None:
    """Print to stderr what the model did not know of the inputs, since stdout has the answer."""
    for sentence in reply.told:
        print(f"onnuri: {sentence}", file=sys.stderr)


def page(sentence: str, files: dict[Modality, Path]) -> str:
    """Return the HTML of the demo's page: the sentence, and its media files as data URIs."""
    uris = {modality: _uri(files[modality], modality) for modality in MEDIA if modality in files}
    return rendered(WEB / "demo.html.j2", sentence=sentence, viewer=VIEWER, **uris)


def _uri(path: Path, modality: Modality) -> str:
    """Return a file as a data URI."""
    return (
        f"data:{TABLE[modality].media_type};base64,{base64.b64encode(path.read_bytes()).decode()}"
    )
