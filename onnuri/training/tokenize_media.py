"""This module turns the media of a table (`data/ingest/`) into codes, once, so that no codec runs
in a training loop.

    OUT/<codec>/            a store (`data/document_store.py`) of one document of codes per medium
    OUT/<codec>.media.txt   the hash of each document's medium, a line each
    OUT/rejected.jsonl      media that a codec does not take: hash, codec and reason
    OUT/tokens.json         what was made of what, written last

Texts stay as they are: another tokenizer reads the same table. Worker processes, or torchrun's
ranks, take shards in turn; a shard that is written is not computed again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onnuri import files
from onnuri.codecs import registry
from onnuri.codecs.base import Codec
from onnuri.codecs.spec import CodecSpec
from onnuri.data.document_store import write_store
from onnuri.data.ingest import table as ingested
from onnuri.data.ingest.table import MEDIA, Tables
from onnuri.data.pool import run_jobs
from onnuri.errors import ConfigError, MediaError
from onnuri.media import reading
from onnuri.parallel import launch

SHARD = 64
"""media per shard"""
AT_ONCE = 16
"""media that a codec encodes together"""
SUMMARY, REJECTED, PARTS = "tokens.json", "rejected.jsonl", "parts"


class CodesShard(NamedTuple):
    """A CodesShard holds what one shard is made of: some media of one modality, and the codec."""

    table: Path
    codecs: Path
    codec: str
    file: Path
    """where the shard is written"""
    hashes: tuple[str, ...]


def tokenize_media(table: Path, codecs: Path, out: Path, workers: int | None = None) -> None:
    """Encode the media of a table with every codec of a folder `codecs/` that encodes their
    modality, or go on where an earlier run ended; under torchrun in every rank.

    `workers` processes encode, as many as CPU cores without it; a GPU is used by this process
    alone. Raises ConfigError for a folder without such codecs, a table without media for them, and
    a place that holds something else.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}", "is below 1", "give 1 or more")
    specs = _specs(codecs)
    media = _media_of(table)
    wanted = {name: media.get(spec.modality, ()) for name, spec in specs.items()}
    if not any(wanted.values()):
        has = ", ".join(sorted(media)) or "none"
        raise ConfigError(
            str(table),
            f"has no media for the codecs {', '.join(specs)} (it has: {has})",
            "give the codecs of another model, or ingest such media",
        )
    content = {
        "codecs": {name: registry.digest(codecs, spec) for name, spec in specs.items()},
        "media": _digest_of(media),
    }
    with launch.ranks():
        with launch.first_rank_first("tokenize"):
            if launch.is_first():
                _begin(out, content)
        if not (out / SUMMARY).exists():
            _encode(_jobs(table, codecs, out, wanted), workers)
            launch.wait_for_all("tokenize")
            if launch.is_first():
                _finish(out, specs, wanted, content)
        if launch.is_first():
            _report(out)


def _specs(codecs: Path) -> dict[str, CodecSpec]:
    """Return the specs of a folder's codecs that encode media, by name. Raises ConfigError if there
    are none, and WeightsError if one cannot be read, before any work."""
    every = registry.load(codecs)
    specs = {name: codec.spec for name, codec in every.items() if codec.modality != "text"}
    if not specs:
        raise ConfigError(
            str(codecs), "holds no codec of media", "give the folder `codecs` of a model"
        )
    return specs


def _media_of(table: Path) -> dict[str, tuple[str, ...]]:
    """Return the hashes of a table's media by modality, in the table's order."""
    media: dict[str, list[str]] = {}
    for row in Tables(table).rows(MEDIA, ["hash", "modality"]):
        media.setdefault(row["modality"], []).append(row["hash"])
    return {modality: tuple(hashes) for modality, hashes in media.items()}


def _digest_of(media: dict[str, tuple[str, ...]]) -> str:
    """Return a name of a table's media and their order."""
    return hashlib.sha256(json.dumps(media, sort_keys=True).encode()).hexdigest()[:16]


def _begin(out: Path, content: dict[str, Any]) -> None:
    """Make the folder, or check that it is of the same media and codecs. Raises ConfigError if it
    is not."""
    path = out / PARTS / "content.json"
    path = out / SUMMARY if (out / SUMMARY).exists() else path
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        if {key: known.get(key) for key in content} != content:
            raise ConfigError(
                f"--out {out}", "holds codes of other media or codecs", "give another folder"
            )
        return
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"--out {out}", "holds other files", "give a new folder")
    files.write_json(content, path)


def _jobs(
    table: Path, codecs: Path, out: Path, wanted: dict[str, tuple[str, ...]]
) -> list[CodesShard]:
    """Return all shards, codec after codec."""
    jobs = []
    for name, hashes in wanted.items():
        for start in range(0, len(hashes), SHARD):
            file = _shard_file(out, name, start)
            jobs.append(CodesShard(table, codecs, name, file, hashes[start : start + SHARD]))
    return jobs


def _shard_file(out: Path, codec: str, start: int) -> Path:
    """Return where the shard of a codec is written that begins at medium number `start`."""
    return out / PARTS / f"{codec}-{start:09}.npz"


def _encode(jobs: Sequence[CodesShard], workers: int | None) -> None:
    """Encode this rank's share of the shards that are not written yet."""
    own = [job for job in launch.share(jobs) if not job.file.exists()]
    alone = launch.device().type != "cpu" or launch.local_ranks() > 1
    count = 1 if alone else workers or os.cpu_count() or 1
    try:
        run_jobs(encode_shard, own, min(count, max(len(own), 1)), "codes")
    finally:
        _codec_of.cache_clear()


@functools.lru_cache(maxsize=1)
def _codec_of(folder: Path, name: str) -> Codec:
    """Return a codec of a folder on the device that this process computes on."""
    codec = registry.load(folder)[name]
    device = launch.device()
    if codec.on_gpu and device.type != "cpu":
        codec.to(device)
    return codec


def encode_shard(job: CodesShard) -> None:
    """Encode the media of a shard and write their codes; a medium that cannot be encoded has none,
    and a reason instead."""
    codec = _codec_of(job.codecs, job.codec)
    contents = Tables(job.table).bytes_of(job.hashes)
    codes: dict[str, np.ndarray] = {}
    reasons: dict[str, str] = {}
    for start in range(0, len(job.hashes), AT_ONCE):
        items: dict[str, Any] = {}
        for name in job.hashes[start : start + AT_ONCE]:
            try:
                modality, item = reading.take(contents[name], codec.modality, name)
                if modality == codec.modality:
                    items[name] = item
                else:
                    reasons[name] = f"is read as {modality}"
            except MediaError as error:
                reasons[name] = str(error)
        if items:
            codes.update(zip(items, codec.encode_batch(list(items.values())), strict=True))
    _write_shard(job, codes, reasons)


def _write_shard(job: CodesShard, codes: dict[str, np.ndarray], reasons: dict[str, str]) -> None:
    """Write a shard under a temporary name and rename it."""
    names = [name for name in job.hashes if name in codes]
    none = np.zeros(0, np.int64)
    part = job.file.with_suffix(f".{os.getpid()}.part.npz")
    with ingested.writing(job.file.parent):
        np.savez(
            part,
            codes=np.concatenate([none, *(codes[name] for name in names)]).astype(np.uint32),
            ends=np.cumsum([len(codes[name]) for name in names], dtype=np.int64),
            hashes=np.array(names, dtype="U64"),
            reasons=np.array(json.dumps(reasons)),
        )
        part.rename(job.file)


def _finish(
    out: Path,
    specs: dict[str, CodecSpec],
    wanted: dict[str, tuple[str, ...]],
    content: dict[str, Any],
) -> None:
    """Join the shards into a store per codec, and write the summary."""
    rejected: list[dict[str, str]] = []
    counts: dict[str, dict[str, int]] = {}
    for name, spec in specs.items():
        hashes: list[str] = []
        shards = [_shard_file(out, name, k) for k in range(0, len(wanted[name]), SHARD)]
        for file in shards:
            with np.load(file) as shard:
                hashes += shard["hashes"].tolist()
                reasons = json.loads(str(shard["reasons"]))
            rejected += [
                {"hash": medium, "codec": name, "reason": reason}
                for medium, reason in reasons.items()
            ]
        counts[name] = {"media": len(hashes), "rejected": len(wanted[name]) - len(hashes)}
        if hashes:
            write_store(out / name, _documents(shards), spec.num_codes, content["codecs"][name])
            text = "".join(f"{each}\n" for each in hashes)
            files.write_bytes(text.encode(), out / f"{name}.media.txt")
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in rejected)
    files.write_bytes(lines.encode(), out / REJECTED)
    files.write_json({**content, "counts": counts}, out / SUMMARY)
    shutil.rmtree(out / PARTS)


def _documents(shards: Sequence[Path]) -> Iterator[np.ndarray]:
    """Yield the codes of each medium of some shards."""
    for file in shards:
        with np.load(file) as shard:
            codes, ends = shard["codes"], shard["ends"]
        yield from np.split(codes, ends[:-1]) if len(ends) else ()


def _report(out: Path) -> None:
    """Print what the folder holds."""
    counts = json.loads((out / SUMMARY).read_text(encoding="utf-8"))["counts"]
    told = ", ".join(f"{each['media']:,} of {name}" for name, each in counts.items())
    rejected = sum(each["rejected"] for each in counts.values())
    launch.console().print(f"wrote {out}: codes of media: {told}; {rejected:,} rejected")
