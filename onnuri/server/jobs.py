"""The routes `/v1/videos` and `/v1/meshes`: jobs that are created, polled, and downloaded when they
are done."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

from onnuri.errors import BusyError
from onnuri.media import reading, writing
from onnuri.media.video import movie_bytes
from onnuri.modality import VIDEO_FPS, Modality
from onnuri.model.answer import Context
from onnuri.model.asking import language_asked
from onnuri.server.conversation import notices_field, notices_of_unknown
from onnuri.server.errors import JSON, APIError, as_api_error, invalid
from onnuri.server.events import OutputSpec
from onnuri.server.schemas import SamplingFields
from onnuri.server.sizes import SECONDS, SIZE, fit_into, seconds_of, size_of
from onnuri.server.state import Caller, State
from onnuri.server.store import MediaJob

log = logging.getLogger("onnuri")
MODALITY_OF: dict[str, Modality] = {"video": "video", "mesh": "shape"}
TYPES = {
    "glb": "model/gltf-binary",
    "obj": "model/obj",
    "ply": "model/ply",
    "stl": "model/stl",
    "mp4": "video/mp4",
}
MOST = 64
"""jobs that may be under way; more are answered with 429"""


async def create(
    kind: str, body: SamplingFields, inputs: list[Any], about: JSON, state: State, caller: Caller
) -> JSON:
    """Start a job and return its fields. Its inputs are read first, so that what is wrong with them
    is an error at once. Raises BusyError where too many jobs are under way."""
    if len(state.jobs) >= MOST:
        raise BusyError(
            f"{len(state.jobs)} jobs are under way", "no more are taken", "try again in a moment"
        )
    state = await state.ask({MODALITY_OF[kind]}, inputs)
    context = await state.service.read(inputs)
    words = [item for modality, item in inputs if modality == "text"]
    language = body.language or (language_asked(words[-1]) if words else "ko")
    spec = body.output_spec(MODALITY_OF[kind], language, body.seed_or_any())
    notices = await notices_of_unknown(context, spec.language, state)
    job = state.store.add_job(
        kind, caller.id, {**about, "model": state.name, **notices}, state.settings.job_seconds
    )
    task = asyncio.create_task(_work(job, context, spec, state, caller))
    state.jobs[job.id] = task
    task.add_done_callback(lambda _: state.jobs.pop(job.id, None))
    return job_fields(job, state)


async def _work(
    job: MediaJob, context: Context, spec: OutputSpec, state: State, caller: Caller
) -> None:
    """Make a job's item and store its file; an error becomes the job's own."""
    try:
        await asyncio.to_thread(state.store.update_job, job.id, status="in_progress")
        async with asyncio.timeout(state.settings.request_seconds):
            item = await state.service.item(context, spec)
            if more := state.model.front_end.unsure(context.logprobs, spec.language):
                before = job.about.get("onnuri", {}).get("notices", [])
                await asyncio.to_thread(
                    state.store.update_job,
                    job.id,
                    about={**job.about, **notices_field(more, before)},
                )
            data = await state.service.decode_in_pool(_file, item.item, job)
            await asyncio.to_thread(state.store.finish_job, job.id, data)
            await state.account(caller, context, [item])
    except asyncio.CancelledError:
        state.store.update_job(job.id, status="failed", error="it was called off")
        raise
    except Exception as error:
        problem = as_api_error(error)
        if problem.status >= 500:
            log.exception("job %s failed", job.id)
        await asyncio.to_thread(
            state.store.update_job, job.id, status="failed", error=problem.message[:500]
        )


def _file(item: Any, job: MediaJob) -> bytes:
    """Return an item as a file in the format, size and length that its job asks for. Raises
    MediaError where there is nothing in it."""
    writing.check_answer(item, MODALITY_OF[job.kind])
    if job.kind != "video":
        return writing.to_bytes(item, f".{job.about['format']}")
    size, seconds = (
        size_of(job.about.get("size"), "size"),
        seconds_of(job.about.get("seconds"), "seconds"),
    )
    slower = Fraction(SECONDS * VIDEO_FPS) / Fraction(seconds).limit_denominator(100)
    return movie_bytes((fit_into(frame, size) for frame in item), ".mp4", slower)


def job_fields(job: MediaJob, state: State) -> JSON:
    """Return a job in the fields that the client gets."""
    # jobs that an earlier version stored name no model
    model = job.about.get("model", state.name)
    common = {
        "id": job.id,
        "object": job.kind,
        "model": model,
        "status": job.status,
        "progress": job.progress,
        "created_at": int(job.created),
        "completed_at": int(job.completed) if job.completed else None,
        "expires_at": int(job.expires),
        "prompt": job.about.get("prompt"),
        "error": {"code": "generation_failed", "message": job.error} if job.error else None,
        **({"onnuri": job.about["onnuri"]} if "onnuri" in job.about else {}),
    }
    if job.kind == "video":
        size, seconds = job.about.get("size") or SIZE, job.about.get("seconds") or str(SECONDS)
        scaled = {} if size == SIZE else {"drawn_size": SIZE}
        slowed = {} if seconds == str(SECONDS) else {"drawn_seconds": str(SECONDS)}
        return {
            **common,
            "seconds": seconds,
            "size": size,
            **scaled,
            **slowed,
            "remixed_from_video_id": None,
        }
    return {**common, "output_format": job.about["format"]}


def find_job(id: str, kind: str, state: State, caller: Caller) -> MediaJob:
    """Return the caller's job of a kind. Raises APIError (404) where there is none."""
    job = state.store.job(id, kind, caller.id)
    if job is None:
        raise APIError(
            404, f"{kind} {id!r}: there is none; list those there are", "not_found", "id"
        )
    return job


def content(job: MediaJob, state: State, variant: str | None) -> tuple[Path | bytes, str]:
    """Return the path of a finished job's file, or the bytes of its thumbnail, and the media type.
    Raises APIError where the file is not there yet."""
    known = ("video", "thumbnail") if job.kind == "video" else (job.kind,)
    if variant not in (None, *known):
        raise invalid(
            f"variant {variant!r:.40}", f"is not made; give {' or '.join(known)}", field="variant"
        )
    path = state.store.files / job.id
    if job.status != "completed" or not path.exists():
        raise APIError(
            404 if job.status == "completed" else 409,
            f"{job.kind} {job.id!r}: is {job.status}; its file is there when it is completed",
            "not_ready",
            "id",
        )
    if variant == "thumbnail":
        frames = reading.from_bytes(path.read_bytes(), "video", f"{job.kind} {job.id!r}")
        return writing.to_bytes(frames[0], ".webp"), "image/webp"
    return path, TYPES[job.about["format"]]


async def delete(job: MediaJob, state: State) -> JSON:
    """Cancel a job that is under way, delete it and its file, and return what the client gets."""
    if task := state.jobs.get(job.id):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    state.store.delete_job(job.id)
    return {"id": job.id, "object": f"{job.kind}.deleted", "deleted": True}


def listing(
    kind: str, state: State, caller: Caller, limit: int, after: str | None, order: str
) -> JSON:
    """Return a page of the caller's jobs of a kind, at most `limit`, those behind the job
    `after`."""
    page = state.store.jobs(kind, caller.id, limit + 1, after, order != "asc")
    jobs_on_page = [job_fields(job, state) for job in page[:limit]]
    return {
        "object": "list",
        "data": jobs_on_page,
        "has_more": len(page) > limit,
        "first_id": jobs_on_page[0]["id"] if jobs_on_page else None,
        "last_id": jobs_on_page[-1]["id"] if jobs_on_page else None,
    }
