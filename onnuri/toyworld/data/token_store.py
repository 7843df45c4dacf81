"""This module builds and reads the token table, which holds the codes of scenes, computed once. It
knows codecs by their contract, and no language model.

A table is a folder of columns; a column is `<name>.values.npy` (uint32, end to end) and
`<name>.offsets.npy` (int64 [N + 1]); `table.json` lists them and is written last. An absent entry
is empty. Sentences are stored as UTF-8 bytes, not as a tokenizer's codes, so that another tokenizer
reads the same table. Pictures and sentences are computed apart, so that a change of the sentences
does not cost the pictures again. Columns:

    image, shape                      codes of the scene
    video                             likewise, in every second row
    spoken_ko, spoken_en              what is spoken: caption 0, in half of the rows a wording of
                                      people if it is short
    audio_ko, audio_en                codes of that, spoken by any voice, in every second row
    voice_ko, voice_en                the same in the model's own voice, words aligned with frames,
                                      in the same rows
    beat_ko, beat_en                  how many of these codes each word has
    ko_0 … en_2                       captions; ko_s, en_s captions of the still
    ask_ko, tell_ko, ask_en, tell_en  a question of what a still shows, and its answer
    edit_ko, edit_en                  an instruction; edit_image, edit_video, edit_shape what it
                                      makes of the scene (an edit of motion has only edit_video)
    still                             one entry [1] where nothing moves, else empty
    say_ko, say_en                    question as speech (`ask_*` spoken by any voice), in every
                                      eighth row
    reply_ko, reply_en                its answer in the model's own voice (`tell_*` spoken), in the
                                      same rows
    tap_ko, tap_en                    how many codes each word of the answer has
    record                            the scene itself, as JSON
    count                             one entry: how many objects there are
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onnuri.data.pool import run_jobs
from onnuri.errors import ConfigError
from onnuri.modality import LANGUAGES, Language
from onnuri.toyworld import audio, image, mesh, video
from onnuri.toyworld.codecs.video import STRIDE
from onnuri.toyworld.scene import Edit, Scene, Thing, generator, sample_edit, sample_scene
from onnuri.toyworld.tasks import instruction, question
from onnuri.toyworld.text import caption
from onnuri.toyworld.wordings import say

Row = dict[str, np.ndarray]
NONE = np.zeros(0, np.int64)
SHARD = 128
"""scenes per shard"""
CAPTIONS = 3
"""captions per language"""
FILMED, SPOKEN, ASKED = 2, 2, 8
"""one row in so many has a video, speech, a spoken question; measured to learn soonest for its cost
in time"""
EDITED = 0.35
"""share of scenes with an edit"""
_codecs: dict[str, Any] = {}


def make_store(
    folder: Path,
    rows: int,
    load_codecs: Callable[[Path], dict[str, Any]],
    codecs: Path,
    workers: int = 2,
) -> None:
    """Build the token table of training seeds 0 … rows - 1 in `folder`; an interrupted build
    continues after the last whole shard.

    Raises ConfigError if the folder holds a table of other rows, or of other codecs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_manifest(
        folder / "codecs.json", {"sha256": _codecs_hash(codecs)}, "made with other codecs"
    )
    if (folder / "table.json").exists():
        _check_manifest(folder / "table.json", {"rows": rows}, f"not of {rows} rows")
        return
    starts = list(range(0, rows, SHARD))
    jobs = [
        (folder, part, s, min(SHARD, rows - s), load_codecs, codecs)
        for part in PARTS
        for s in starts
        if not _shard_file(folder, s, part).exists()
    ]
    try:
        run_jobs(_build_shard, jobs, workers, "token table")
    finally:
        _codecs.clear()  # where this process did the work, it may do that of other codecs next
    _merge(folder, starts, rows)


def _check_manifest(path: Path, expected: dict[str, Any], complaint: str) -> None:
    """Write what a folder is built with to `path`, or check it if the file exists. Raises
    ConfigError, with the complaint, if it differs."""
    if not path.exists():
        path.write_text(json.dumps(expected))
    stored_values = json.loads(path.read_text())
    if any(stored_values.get(k) != v for k, v in expected.items()):
        raise ConfigError(
            str(path.parent),
            f"is a token table {complaint}",
            "delete the folder or give another with --out",
        )


def _codecs_hash(folder: Path) -> str:
    """Return the hash of all codecs' weights, settings and specs in a folder, except the text
    codec's, since a table holds no text codes."""
    digest = hashlib.sha256()
    specs = [file for file in folder.rglob("spec-*.json") if file.parent.name != "text"]
    for file in sorted([*folder.rglob("*.safetensors"), *folder.rglob("config.json"), *specs]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _build_shard(job: tuple[Path, str, int, int, Callable[[Path], dict[str, Any]], Path]) -> None:
    """Compute one part (see `PARTS`) of `count` rows from seed `start` on and write it as a
    shard."""
    folder, part, start, count, load_codecs, codecs = job
    if not _codecs:
        _codecs.update(load_codecs(codecs))
        if _codecs["image"].spec.item_codes is None:
            raise ConfigError(
                str(codecs),
                "has an image codec of items without a fixed length",
                "use the object codecs here",
            )
    rows = PARTS[part]([sample_scene(seed) for seed in range(start, start + count)], _codecs)
    write_shard(folder, start, part, rows)


def write_shard(folder: Path, start: int, part: str, rows: list[Row]) -> None:
    """Write one part of some rows under a temporary name, then rename it. Raises ConfigError for a
    value that is no uint32."""
    columns: dict[str, np.ndarray] = {}
    for name in rows[0]:
        columns[f"{name}.values"] = stored(np.concatenate([r[name] for r in rows]), name)
        columns[f"{name}.lengths"] = np.array([len(r[name]) for r in rows])
    temporary = folder / f"{start}.{part}.part.npz"
    np.savez(temporary, **columns)  # type: ignore[arg-type]
    temporary.rename(_shard_file(folder, start, part))


def stored(values: np.ndarray, name: str) -> np.ndarray:
    """Return ids [K] as the table stores them, uint32. Raises ConfigError where one would come back
    as another."""
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < 2**32:
        raise ConfigError(
            f"{name}: {int(values.min())} to {int(values.max())}",
            "are not all within 0 to 4,294,967,295, which the token table stores",
            "use a tokenizer or codec with ids in that range",
        )
    return values.astype(np.uint32)


def _shard_file(folder: Path, start: int, part: str) -> Path:
    """Return the path of the shard of a part that begins at row `start`."""
    return folder / f"{start}.{part}.npz"


def _merge(folder: Path, starts: list[int], rows: int) -> None:
    """Join the shards to columns, list them in `table.json`, and delete the shards."""
    shards = []
    for start in starts:
        shard: dict[str, np.ndarray] = {}
        for part in PARTS:
            shard |= np.load(_shard_file(folder, start, part))
        shards.append(shard)
    names = sorted(k.removesuffix(".values") for k in shards[0] if k.endswith(".values"))
    for name in names:
        np.save(
            folder / f"{name}.values.npy", np.concatenate([s[f"{name}.values"] for s in shards])
        )
        lengths = np.concatenate([s[f"{name}.lengths"] for s in shards])
        np.save(folder / f"{name}.offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    (folder / "table.json").write_text(json.dumps({"rows": rows, "columns": names}, indent=2))
    for start in starts:
        for part in PARTS:
            _shard_file(folder, start, part).unlink()


def visual_columns(scenes: list[Scene], codecs: dict[str, Any]) -> list[Row]:
    """Return the columns of media that are seen, for the scenes and for the scenes after their
    edits."""
    rows: list[Row] = [{} for _ in scenes]
    has_video = [scene.seed % FILMED == 0 for scene in scenes]
    _add_media(rows, scenes, "", codecs, has_video, [True] * len(scenes))
    edits = [edit_of(scene) for scene in scenes]
    edited = [e.apply(s) if e else None for e, s in zip(edits, scenes)]
    static = [e is not None and e.attribute != "motion" for e in edits]
    _add_media(rows, edited, "edit_", codecs, has_video, static)
    return rows


def words(scenes: list[Scene], codecs: dict[str, Any]) -> list[Row]:
    """Return the columns of text and speech of the scenes."""
    return [_word_columns(scene, codecs) | _edit_columns(scene) for scene in scenes]


def records(scenes: list[Scene], codecs: dict[str, Any]) -> list[Row]:
    """Return the column of the scenes themselves, as JSON."""
    return [{"record": _utf8(json.dumps(dataclasses.asdict(scene)))} for scene in scenes]


PARTS: dict[str, Callable[[list[Scene], dict[str, Any]], list[Row]]] = {
    "sights": visual_columns,
    "words": words,
    "records": records,
}
"""the parts of a table that are computed apart; each takes scenes and codecs and returns rows of
columns"""


def _edit_columns(scene: Scene) -> Row:
    """Return the columns of a scene's edit as an instruction in both languages; empty without an
    edit."""
    edit, rng = edit_of(scene), generator("train", scene.seed)
    return {
        f"edit_{language}": _utf8(instruction(scene, edit, language, rng) if edit else "")
        for language in LANGUAGES
    }


def _utf8(sentence: str) -> np.ndarray:
    """Return a sentence as UTF-8 bytes, int64 [K]."""
    return np.frombuffer(sentence.encode(), np.uint8).astype(np.int64)


def edit_of(scene: Scene) -> Edit | None:
    """Return the edit that a scene's row holds; None if it holds none."""
    rng = np.random.default_rng([7, scene.seed])
    return (
        sample_edit(rng, scene, allow_motion=scene.seed % FILMED == 0 and rng.random() < 0.5)
        if rng.random() < EDITED
        else None
    )


def _word_columns(scene: Scene, codecs: dict[str, Any]) -> Row:
    """Return the columns of a scene's captions, question and answer, and of what of them is
    spoken."""
    rng, row = generator("train", scene.seed), {}
    for language in LANGUAGES:
        captions = [caption(scene, language, rng, full=k < CAPTIONS - 1) for k in range(CAPTIONS)]
        for k, sentence in enumerate(captions):
            row[f"{language}_{k}"] = _utf8(sentence)
        row[f"{language}_s"] = _utf8(caption(scene, language, rng, motion=False))
        question_text, answer_text = question(scene, language, rng, motion=False)
        row[f"ask_{language}"], row[f"tell_{language}"] = _utf8(question_text), _utf8(answer_text)
        voice = audio.sample_voice(rng)
        spoken_text = _spoken_sentence(scene, captions[0], language)
        row[f"spoken_{language}"] = _utf8(spoken_text)
        row[f"audio_{language}"] = (
            _encode_speech(codecs, spoken_text, language, voice)
            if scene.seed % SPOKEN == 0
            else NONE
        )
        row[f"voice_{language}"], row[f"beat_{language}"] = (
            _encode_own_speech(codecs, spoken_text, language)
            if scene.seed % SPOKEN == 0
            else (NONE, NONE)
        )
        row[f"say_{language}"] = (
            _encode_speech(codecs, question_text, language, voice)
            if scene.seed % ASKED == 0
            else NONE
        )
        row[f"reply_{language}"], row[f"tap_{language}"] = (
            _encode_own_speech(codecs, answer_text, language)
            if scene.seed % ASKED == 0
            else (NONE, NONE)
        )
    row["count"] = np.array([len(scene.things)])
    row["still"] = np.ones(int(all(t.motion == "still" for t in scene.things)), np.int64)
    return row


def _spoken_sentence(scene: Scene, sentence: str, language: Language) -> str:
    """Return the sentence that is spoken of a scene: the caption, or in half of the spoken rows a
    wording of people, if a voice can say it word by word and it is not much longer than the
    caption."""
    if scene.seed % (2 * SPOKEN):
        return sentence
    wording = say(scene, language, np.random.default_rng([11, scene.seed]))
    clear = (
        re.fullmatch(r"[a-z가-힣 ?]+", wording) is not None
        and (language == "en") == wording.isascii()
    )
    return wording if clear and len(wording) <= 1.5 * len(sentence) else sentence


def _encode_speech(
    codecs: dict[str, Any], sentence: str, language: Language, voice: audio.Voice
) -> np.ndarray:
    """Return the audio codes int64 [K] of a sentence in any voice."""
    codes: np.ndarray = codecs["audio"].encode(audio.speak(sentence, language, voice))
    return codes


def _encode_own_speech(
    codecs: dict[str, Any], sentence: str, language: Language
) -> tuple[np.ndarray, np.ndarray]:
    """Return the audio codes int64 [K] of a sentence in the model's own voice, and how many codes
    each word has, int64 [words]."""
    samples, frames_per_word = audio.speak_aligned(sentence, language, audio.OWN)
    return codecs["audio"].encode(samples), np.array(frames_per_word, dtype=np.int64)


def _add_media(
    rows: list[Row],
    scenes: list[Any],
    prefix: str,
    codecs: dict[str, Any],
    has_video: list[bool],
    static: list[bool],
) -> None:
    """Add the codes of scenes to their rows: image and shape where `static`, video where
    `has_video`. A scene that is None leaves its entries empty."""
    render_video = functools.partial(
        video.render, every=STRIDE
    )  # the codec looks at no other frames
    renderers: dict[str, Any] = {
        "video": lambda s: render_video(s).frames,
        "shape": mesh.voxels,
        "image": lambda s: image.render(s).image,
    }
    image_codes = codecs["image"].spec.item_codes
    # a video's first frame is the picture, its first codes are the picture's
    row_masks = {
        "video": has_video,
        "shape": static,
        "image": [s and not f for s, f in zip(static, has_video)],
    }
    for modality, mask in row_masks.items():
        indices = [k for k, w in enumerate(mask) if w and scenes[k] is not None]
        for first in range(0, len(indices), 16):
            batch = indices[first : first + 16]
            for k, codes in zip(
                batch,
                codecs[modality].encode_batch([renderers[modality](scenes[k]) for k in batch]),
            ):
                rows[k][f"{prefix}{modality}"] = codes
        for row in rows:
            row.setdefault(f"{prefix}{modality}", NONE)
    for row, is_still in zip(rows, static):
        if is_still and len(row[f"{prefix}video"]):
            row[f"{prefix}image"] = row[f"{prefix}video"][:image_codes]


class TokenStore:
    """A TokenStore reads a token table by memory map. Its constructor raises ConfigError if the
    folder holds none, or a damaged one."""

    def __init__(self, folder: Path) -> None:
        try:
            self.about = json.loads((folder / "table.json").read_text())
            self.rows: int = self.about["rows"]
            self.values = {
                n: np.load(folder / f"{n}.values.npy", mmap_mode="r") for n in self.about["columns"]
            }
            self.offsets = {n: np.load(folder / f"{n}.offsets.npy") for n in self.about["columns"]}
        except (OSError, EOFError, ValueError, TypeError, KeyError):
            raise ConfigError(
                str(folder),
                "holds no whole token table",
                "give one that `onnuri train` wrote, or delete it and train again",
            ) from None

    def get(self, row: int, column: str) -> np.ndarray:
        """Return the entry int64 [K] of a row in a column; empty where there is none."""
        start, stop = self.offsets[column][row : row + 2]
        return np.asarray(self.values[column][start:stop], dtype=np.int64)

    def column(self, name: str) -> np.ndarray:
        """Return a column that has exactly one code per row, int64 [rows]."""
        return np.asarray(self.values[name], dtype=np.int64)

    def scene(self, row: int) -> Scene:
        """Return the scene of a row."""
        values = json.loads(self.text(row, "record"))
        things = tuple(Thing(**thing) for thing in values.pop("things"))
        stated = tuple((i, relation, j) for i, relation, j in values.pop("stated"))
        return Scene(things=things, stated=stated, light=tuple(values.pop("light")), **values)

    def text(self, row: int, column: str) -> str:
        """Return the sentence of a row in a column of text."""
        return bytes(self.get(row, column).tolist()).decode()

    def rows_with(self, column: str) -> np.ndarray:
        """Return the rows whose entry in a column is not empty, int64 [N]."""
        return np.flatnonzero(np.diff(self.offsets[column]))
