"""The token table: what codecs make of scenes, computed once. Knows codecs by their contract, not the language model.

A table is a folder of columns; a column is `<name>.values.npy` (uint16, end to end) and `<name>.offsets.npy` (int64
[N + 1]); `table.json` lists them and is written last. An absent entry is empty. Columns:

    image, shape                      codes of the scene
    video                             likewise, in every second row
    audio_ko, audio_en                codes of caption 0, spoken by any voice, in every second row
    voice_ko, voice_en                the same in the model's own voice, words aligned with frames, in the same rows
    beat_ko, beat_en                  how many of these codes each word has
    ko_0 … en_2                       captions; ko_s, en_s captions of the still
    ask_ko, tell_ko, ask_en, tell_en  a question of what a still shows, and its answer
    edit_ko, edit_en                  an instruction; edit_image, edit_video, edit_shape what it makes of the scene
                                      (an edit of motion has only edit_video)
    still                             one entry [1] where nothing moves, else empty
    say_ko, say_en                    question as speech (`ask_*` spoken by any voice), in every eighth row
    reply_ko, reply_en                its answer in the model's own voice (`tell_*` spoken), in the same rows
    tap_ko, tap_en                    how many codes each word of the answer has
    count                             one entry: how many objects there are

`table.json` also has `phrases`: codes of sentences that are the same for all rows.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from onnuri.codecs.video import STRIDE
from onnuri.data.pool import processes
from onnuri.errors import ConfigError
from onnuri.modality import LANGUAGES, TABLE, Language
from onnuri.world import audio, image, shape, video
from onnuri.world.scene import Edit, Scene, generator, sample_edit, sample_scene
from onnuri.world.tasks import COMPARISONS, instruction, question
from onnuri.world.text import caption

Row = dict[str, np.ndarray]
NONE = np.zeros(0, np.int64)
SHARD = 128
"""scenes a shard"""
CAPTIONS = 3
"""phrasings a language"""
FILMED, SPOKEN, ASKED = 2, 2, 8
"""one row in so many has a video, speech, a spoken question: what is learned soonest for its cost in time"""
EDITED = 0.35
"""share of scenes with an edit"""
_codecs: dict[str, Any] = {}


def make_table(folder: Path, rows: int, load_codecs: Callable[[Path], dict[str, Any]], codecs: Path,
               workers: int = 2) -> None:
    """The rows of training seeds 0 … rows - 1; goes on after the last whole shard.

    Raises ConfigError where the folder holds a table of other rows, or of other codecs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _same(folder / "codecs.json", {"sha256": _hash(codecs)}, "made with other codecs")
    if (folder / "table.json").exists():
        _same(folder / "table.json", {"rows": rows}, f"not of {rows} rows")
        return
    starts = list(range(0, rows, SHARD))
    jobs = [(folder, s, min(SHARD, rows - s), load_codecs, codecs) for s in starts
            if not (folder / f"{s}.shard.npz").exists()]
    with processes(workers) as pool:
        for _ in track(pool.imap_unordered(_shard, jobs), total=len(jobs), description="token table", transient=True):
            pass
    _merge(folder, starts, rows, phrases(load_codecs(codecs)["text"]))


def _same(path: Path, wanted: dict[str, Any], complaint: str) -> None:
    """Writes what a folder was made with, or holds it against what is wanted."""
    if not path.exists():
        path.write_text(json.dumps(wanted))
    found = json.loads(path.read_text())
    if any(found.get(k) != v for k, v in wanted.items()):
        raise ConfigError(str(path.parent), f"is a token table {complaint}", "delete the folder or give another with --out")


def _hash(folder: Path) -> str:
    """Of all weights in a folder."""
    digest = hashlib.sha256()
    for file in sorted([*folder.rglob("*.safetensors"), *folder.rglob("tokenizer.json")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _shard(job: tuple[Path, int, int, Callable[[Path], dict[str, Any]], Path]) -> None:
    folder, start, count, load_codecs, codecs = job
    if not _codecs:
        _codecs.update(load_codecs(codecs))
    rows = encode_rows([sample_scene(seed) for seed in range(start, start + count)], _codecs)
    columns: dict[str, np.ndarray] = {}
    for name in rows[0]:
        columns[f"{name}.values"] = np.concatenate([r[name] for r in rows]).astype(np.uint16)
        columns[f"{name}.lengths"] = np.array([len(r[name]) for r in rows])
    part = folder / f"{start}.part.npz"
    np.savez(part, **columns)  # type: ignore[arg-type]
    part.rename(folder / f"{start}.shard.npz")


def phrases(text: Any) -> dict[str, list[int]]:
    """Codes of the sentences that are the same for all rows."""
    found = {}
    for language, (asked, answers) in COMPARISONS.items():
        found[f"which_{language}"] = text.encode(asked).tolist()
        found |= {f"more{k}_{language}": text.encode(a).tolist() for k, a in enumerate(answers)}
    return found


def _merge(folder: Path, starts: list[int], rows: int, said: dict[str, list[int]]) -> None:
    shards = [dict(np.load(folder / f"{s}.shard.npz")) for s in starts]
    names = sorted(k.removesuffix(".values") for k in shards[0] if k.endswith(".values"))
    for name in names:
        np.save(folder / f"{name}.values.npy", np.concatenate([s[f"{name}.values"] for s in shards]))
        lengths = np.concatenate([s[f"{name}.lengths"] for s in shards])
        np.save(folder / f"{name}.offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    (folder / "table.json").write_text(json.dumps({"rows": rows, "columns": names, "phrases": said}, indent=2))
    for s in starts:
        (folder / f"{s}.shard.npz").unlink()


def encode_rows(scenes: list[Scene], codecs: dict[str, Any]) -> list[Row]:
    """Everything a table holds of scenes."""
    rows = [_words(scene, codecs) for scene in scenes]
    filmed = [scene.seed % FILMED == 0 for scene in scenes]
    _media(rows, scenes, "", codecs, filmed, [True] * len(scenes))
    edits = [edit_of(scene) for scene in scenes]
    edited = [e.apply(s) if e else None for e, s in zip(edits, scenes)]
    still = [e is not None and e.attribute != "motion" for e in edits]
    _media(rows, edited, "edit_", codecs, filmed, still)
    for row, scene, edit in zip(rows, scenes, edits):
        rng = generator("train", scene.seed)
        for language in LANGUAGES:
            said = instruction(scene, edit, language, rng) if edit else ""
            row[f"edit_{language}"] = codecs["text"].encode(said)
    return rows


def edit_of(scene: Scene) -> Edit | None:
    """The edit that a scene's row holds, if any."""
    rng = np.random.default_rng([7, scene.seed])
    return sample_edit(rng, scene, allow_motion=scene.seed % FILMED == 0 and rng.random() < 0.5) \
        if rng.random() < EDITED else None


def _words(scene: Scene, codecs: dict[str, Any]) -> Row:
    rng, row, text = generator("train", scene.seed), {}, codecs["text"]
    for language in LANGUAGES:
        said = [caption(scene, language, rng, full=k < CAPTIONS - 1) for k in range(CAPTIONS)]
        for k, sentence in enumerate(said):
            row[f"{language}_{k}"] = text.encode(sentence)
        row[f"{language}_s"] = text.encode(caption(scene, language, rng, motion=False))
        asked, told = question(scene, language, rng, motion=False)
        row[f"ask_{language}"], row[f"tell_{language}"] = text.encode(asked), text.encode(told)
        voice = audio.sample_voice(rng)
        row[f"audio_{language}"] = _heard(codecs, said[0], language, voice) if scene.seed % SPOKEN == 0 else NONE
        row[f"voice_{language}"], row[f"beat_{language}"] = _spoken(codecs, said[0], language) \
            if scene.seed % SPOKEN == 0 else (NONE, NONE)
        row[f"say_{language}"] = _heard(codecs, asked, language, voice) if scene.seed % ASKED == 0 else NONE
        row[f"reply_{language}"], row[f"tap_{language}"] = _spoken(codecs, told, language) \
            if scene.seed % ASKED == 0 else (NONE, NONE)
    row["count"] = np.array([len(scene.things)])
    row["still"] = np.ones(int(all(t.motion == "still" for t in scene.things)), np.int64)
    return row


def _heard(codecs: dict[str, Any], sentence: str, language: Language, voice: audio.Voice) -> np.ndarray:
    """Codes of a sentence in any voice."""
    codes: np.ndarray = codecs["audio"].encode(audio.speak(sentence, language, voice))
    return codes


def _spoken(codecs: dict[str, Any], sentence: str, language: Language) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a sentence in the model's own voice, and how many each word has."""
    samples, beats = audio.speak_aligned(sentence, language, audio.OWN)
    return codecs["audio"].encode(samples), np.array(beats, dtype=np.int64)


def _media(rows: list[Row], scenes: list[Any], prefix: str, codecs: dict[str, Any], filmed: list[bool],
           still: list[bool]) -> None:
    """Image and shape of scenes where `still`, video where `filmed`; a scene that is None leaves the entries empty."""
    film = functools.partial(video.render, every=STRIDE)  # the codec looks at no other frames
    renderers: dict[str, Any] = {"video": lambda s: film(s).frames, "shape": shape.voxels,
                                 "image": lambda s: image.render(s).image}
    first = TABLE["image"].item_tokens
    # a video's first frame is the picture, its first codes are the picture's
    wanted = {"video": filmed, "shape": still, "image": [s and not f for s, f in zip(still, filmed)]}
    for medium, want in wanted.items():
        chosen = [k for k, w in enumerate(want) if w and scenes[k] is not None]
        for at in range(0, len(chosen), 16):
            part = chosen[at : at + 16]
            for k, codes in zip(part, codecs[medium].encode_batch([renderers[medium](scenes[k]) for k in part])):
                rows[k][f"{prefix}{medium}"] = codes
        for row in rows:
            row.setdefault(f"{prefix}{medium}", NONE)
    for row, is_still in zip(rows, still):
        if is_still and len(row[f"{prefix}video"]):
            row[f"{prefix}image"] = row[f"{prefix}video"][:first]


class Table:
    """Reads a table by memory map. Raises ConfigError where the folder holds none, or a damaged one."""

    def __init__(self, folder: Path) -> None:
        try:
            self.about = json.loads((folder / "table.json").read_text())
            self.rows: int = self.about["rows"]
            self.values = {n: np.load(folder / f"{n}.values.npy", mmap_mode="r") for n in self.about["columns"]}
            self.offsets = {n: np.load(folder / f"{n}.offsets.npy") for n in self.about["columns"]}
        except (OSError, EOFError, ValueError, TypeError, KeyError):
            raise ConfigError(str(folder), "holds no whole token table", "give one that `onnuri train` wrote, or delete it and "
                              "train again") from None

    def get(self, row: int, column: str) -> np.ndarray:
        """Codes int64 [K]; empty where there is none."""
        start, stop = self.offsets[column][row : row + 2]
        return np.asarray(self.values[column][start:stop], dtype=np.int64)

    def column(self, name: str) -> np.ndarray:
        """A column that has one code in every row, int64 [rows]."""
        return np.asarray(self.values[name], dtype=np.int64)

    def phrase(self, name: str) -> np.ndarray:
        """Codes int64 [K] of a sentence that is the same for all rows."""
        return np.array(self.about["phrases"][name], dtype=np.int64)

    def having(self, column: str) -> np.ndarray:
        """Rows whose entry in a column is not empty."""
        return np.flatnonzero(np.diff(self.offsets[column]))
