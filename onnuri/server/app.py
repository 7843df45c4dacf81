"""The server: every route, and what binds them. `onnuri serve` runs it; `create` makes it for
tests.

Routes are thin: what they answer is in `openai_chat.py`, `openai_responses.py`,
`openai_completions.py`, `images.py`, `audio.py` and `jobs.py`, how it is sent in `streaming.py`,
what stands before them in `middleware.py`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from onnuri import __version__, formats
from onnuri.errors import OnnuriError
from onnuri.modality import MEDIA
from onnuri.server import audio, images, inputs, jobs, memory
from onnuri.server.bodies import form_or_json, openapi_body
from onnuri.server.complaints import complaint
from onnuri.server.errors import JSON, APIError, as_api_error, invalid
from onnuri.server.middleware import LOCAL, Guard, client_of
from onnuri.server.openai_chat import ChatAnswer
from onnuri.server.openai_completions import CompletionAnswer
from onnuri.server.openai_responses import ResponseAnswer
from onnuri.server.schemas import (
    ChatRequest,
    CompletionRequest,
    EditRequest,
    ImageRequest,
    MeshRequest,
    ResponseRequest,
    SpeechRequest,
    TranscriptionRequest,
    VideoRequest,
)
from onnuri.server.sizes import seconds_of, size_of
from onnuri.server.sound import TYPES
from onnuri.server.state import Caller, State, state_of
from onnuri.server.streaming import (
    byte_response,
    event_response,
    json_or_event_response,
    within_deadline,
)
from onnuri.server.words import with_words

log = logging.getLogger("onnuri")
WEB = Path(__file__).parent / "web"
TIDY_SECONDS, TRIM_SECONDS = 60.0, 10.0
_bearer = HTTPBearer(
    auto_error=False,
    description="a key that `onnuri keys add` made; none is needed on loopback without keys",
)


def create(state: State) -> FastAPI:
    """Return the ASGI application."""

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(state.store.tidy, True)
        regular = [
            asyncio.create_task(_every(TIDY_SECONDS, state.store.tidy)),
            asyncio.create_task(_every(TRIM_SECONDS, memory.trim)),
        ]
        yield
        for task in [*regular, *state.jobs.values()]:
            task.cancel()
        await asyncio.gather(*state.jobs.values(), return_exceptions=True)
        await asyncio.to_thread(state.close)
        state.store.close()

    app = FastAPI(
        title="Onnuri",
        version=__version__,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        description="Text, image, audio, video and 3D, each understood and generated: "
        "OpenAI's routes and ours.",
    )
    app.state.onnuri = state
    app.add_middleware(Guard, state=state)
    if state.settings.origins:
        from starlette.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(state.settings.origins),
            allow_methods=["*"],
            allow_headers=["*"],
        )
    app.add_exception_handler(Exception, _failed)
    for kind in (APIError, OnnuriError, TimeoutError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _failed)
    _conversation(app)
    _sounds(app)
    _jobs(app)
    _rest(app)
    return app


async def _failed(request: Request, error: Exception) -> Response:
    """Every error in the client's form."""
    if isinstance(error, RequestValidationError):
        problem = complaint(error.errors(), error.body, request.headers.get("content-type", ""))
    elif isinstance(error, HTTPException):
        problem = _refusal(request, error)
    else:
        problem = as_api_error(error)
    if problem.status >= 500 and problem.code == "internal_error":
        log.error("%s failed", request.state.id, exc_info=error)
    return JSONResponse(
        with_words(problem, request.headers.get("accept-language", "")),
        problem.status,
        problem.headers,
    )


def _refusal(request: Request, error: HTTPException) -> APIError:
    """What the framework refuses, in our words."""
    asked = f"{request.method} {request.url.path:.100}"
    if error.status_code == 404:
        return APIError(404, f"{asked}: there is no such route; see /docs", "not_found")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return APIError(
            405,
            f"{asked}: this route takes {allowed}; use that",
            "method_not_allowed",
            more={"Allow": allowed},
        )
    code = {413: "body_too_large", 408: "request_timeout"}.get(error.status_code, "invalid_request")
    return APIError(
        error.status_code,
        error.detail if error.status_code in (408, 413) else f"{asked}: {error.detail}",
        code,
        more=error.headers,
    )


async def _caller(request: Request, bearer: Annotated[Any, Depends(_bearer)]) -> Caller:
    local = client_of(request.scope) in LOCAL
    caller = await state_of(request).admit(bearer.credentials if bearer else None, local)
    request.state.caller = caller.id
    request.state.limits = [(k.encode(), v.encode()) for k, v in caller.limits.items()]
    return caller


async def _reader(request: Request) -> None:
    """Let in whoever reads what an operator reads: it needs a key where callers do; a browser sends
    one as a password."""
    kind, _, sent = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "basic":
        with contextlib.suppress(ValueError):
            sent = base64.b64decode(sent).decode().rpartition(":")[2]
    try:
        await state_of(request).admit(sent, client_of(request.scope) in LOCAL, counts=False)
    except APIError as error:
        error.more = {"WWW-Authenticate": 'Basic realm="Onnuri", charset="UTF-8"'}
        raise


Who = Annotated[Caller, Depends(_caller)]
Reader = [Depends(_reader)]


def _chosen(request: Request, body: Any) -> State:
    """Return the state of the model that a body names."""
    return state_of(request).choose(body.model)


def _conversation(app: FastAPI) -> None:
    @app.post("/v1/chat/completions", tags=["conversation"])
    async def chat_completions(body: ChatRequest, request: Request, who: Who) -> Response:
        """Text, pictures, sounds, videos and meshes in; any of them out, by `modalities`."""
        answer = ChatAnswer(body, _chosen(request, body), who)
        return await json_or_event_response(request, body.stream, answer.whole, answer.chunks)

    @app.post("/v1/responses", tags=["conversation"])
    async def responses_create(body: ResponseRequest, request: Request, who: Who) -> Response:
        """A conversation in; words out, and pictures where the tool that draws is given."""
        answer = ResponseAnswer(body, _chosen(request, body), who)
        return await json_or_event_response(
            request, body.stream, answer.whole, answer.events, answer.failed
        )

    @app.post("/v1/images/generations", tags=["images"])
    async def images_generations(body: ImageRequest, request: Request, who: Who) -> Response:
        """A sentence to pictures."""
        return await _pictures(body, request, who)

    @app.post(
        "/v1/images/edits",
        tags=["images"],
        openapi_extra=openapi_body(EditRequest, ("image", "image[]")),
    )
    async def images_edits(request: Request, who: Who) -> Response:
        """Pictures, and a sentence that says what to make of them, to pictures. A form, or JSON."""
        return await _pictures(await form_or_json(request, EditRequest), request, who)

    @app.post("/v1/completions", tags=["conversation"])
    async def text_completions(body: CompletionRequest, request: Request, who: Who) -> Response:
        """Text that goes on from text, and how likely every token of it is."""
        answer = CompletionAnswer(body, _chosen(request, body), who)
        return await json_or_event_response(request, body.stream, answer.whole, answer.chunks)


async def _pictures(body: ImageRequest, request: Request, who: Caller) -> Response:
    arguments = (body, _chosen(request, body), who)
    return await json_or_event_response(
        request, body.stream, lambda: images.generate(*arguments), lambda: images.stream(*arguments)
    )


def _sounds(app: FastAPI) -> None:
    @app.post("/v1/audio/speech", tags=["audio"])
    async def audio_speech(body: SpeechRequest, request: Request, who: Who) -> Response:
        """A sentence to speech."""
        speech = audio.Speech(body, _chosen(request, body), who)
        if body.stream_format == "sse":
            return await event_response(request, speech.events())
        if body.response_format in ("pcm", "pcm16"):
            return await byte_response(request, speech.pcm(), TYPES["pcm"])
        data, kind = await within_deadline(request, speech.whole())
        return Response(data, media_type=kind)

    @app.post(
        "/v1/audio/transcriptions",
        tags=["audio"],
        openapi_extra=openapi_body(TranscriptionRequest, ("file",)),
    )
    async def audio_transcriptions(request: Request, who: Who) -> Response:
        """Speech to a sentence. A form, or JSON."""
        state, body, samples = await _heard(request)
        if body.stream:
            return await event_response(request, audio.transcription_events(samples, state, who))
        heard = await within_deadline(request, audio.transcribe(samples, state, who))
        return _written(audio.transcription(body.response_format, "transcribe", *heard))

    @app.post(
        "/v1/audio/translations",
        tags=["audio"],
        openapi_extra=openapi_body(TranscriptionRequest, ("file",)),
    )
    async def audio_translations(request: Request, who: Who) -> Response:
        """Speech in any language to a sentence in English. A form, or JSON."""
        state, body, samples = await _heard(request)
        if body.stream:
            raise invalid(
                "stream", "a translation comes as a whole; leave it out", code="unsupported_value"
            )
        heard = await within_deadline(request, audio.translate(samples, state, who))
        return _written(audio.transcription(body.response_format, "translate", *heard))


async def _heard(request: Request) -> tuple[State, TranscriptionRequest, Any]:
    """Return what is asked of a sound, and its samples. Raises APIError and MediaError."""
    body = await form_or_json(request, TranscriptionRequest)
    audio.check_transcription({**body.model_dump(), **(body.model_extra or {})})
    state = _chosen(request, body)
    _, samples = await images.read_upload(body.file, "audio", "file", state)
    return state, body, samples


def _written(answer: Any) -> Response:
    return PlainTextResponse(answer) if isinstance(answer, str) else JSONResponse(answer)


def _jobs(app: FastAPI) -> None:
    @app.post(
        "/v1/videos",
        tags=["videos"],
        openapi_extra=openapi_body(VideoRequest, ("input_reference",)),
    )
    async def videos_create(request: Request, who: Who) -> Response:
        """A sentence, and perhaps a picture or another thing to begin from, to a video. A form, or
        JSON."""
        body = await form_or_json(request, VideoRequest)
        state = _chosen(request, body)
        width, height = size_of(body.size, "size", even=True)
        seconds = f"{seconds_of(body.seconds, 'seconds'):g}"
        given: list[Any] = [("text", body.prompt)]
        if body.input_reference not in (None, ""):
            given.insert(
                0, await images.read_upload(body.input_reference, None, "input_reference", state)
            )
        about = {
            "prompt": body.prompt,
            "format": "mp4",
            "size": f"{width}x{height}",
            "seconds": seconds,
        }
        return JSONResponse(await jobs.create("video", body, given, about, state, who))

    @app.post("/v1/meshes", tags=["meshes"])
    async def meshes_create(body: MeshRequest, request: Request, who: Who) -> Response:
        """A sentence, or any media, to a 3D model."""
        state = _chosen(request, body)
        parts = body.input_reference or []
        if isinstance(parts, str):
            parts = [{"type": "file", "file": {"file_data": parts}}]
        inputs.check_count(parts, state.model.answers, "input_reference")
        given: list[Any] = [
            await state.service.decode_in_pool(
                inputs.load, part, f"input_reference[{k}]", state.settings
            )
            for k, part in enumerate(parts)
        ]
        given += [("text", body.prompt)] if body.prompt and body.prompt.strip() else []
        if not given:
            raise invalid("prompt", "nothing is given; give a sentence or an input_reference")
        about = {"prompt": body.prompt, "format": body.output_format or "glb"}
        return JSONResponse(await jobs.create("mesh", body, given, about, state, who))

    for kind, path in (("video", "/v1/videos"), ("mesh", "/v1/meshes")):
        _job_routes(app, kind, path)


def _job_routes(app: FastAPI, kind: str, path: str) -> None:
    """What both kinds of jobs have."""
    tag = path[4:]

    @app.get(path, tags=[tag], operation_id=f"{tag}_list")
    def listing(
        request: Request,
        who: Who,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> JSON:
        """Jobs, the newest first."""
        return jobs.listing(kind, state_of(request), who, limit, after, order)

    @app.get(path + "/{id}", tags=[tag], operation_id=f"{tag}_get")
    def get(id: str, request: Request, who: Who) -> JSON:
        """How far a job is."""
        return jobs.job_fields(jobs.find_job(id, kind, state_of(request), who), state_of(request))

    @app.get(path + "/{id}/content", tags=[tag], operation_id=f"{tag}_content")
    def content(id: str, request: Request, who: Who, variant: str | None = None) -> Response:
        """The file that a job made, or a part of it by `Range`; of a video its `thumbnail` too."""
        made, media_type = jobs.content(
            jobs.find_job(id, kind, state_of(request), who), state_of(request), variant
        )
        return (
            Response(made, media_type=media_type)
            if isinstance(made, bytes)
            else FileResponse(made, media_type=media_type)
        )

    @app.delete(path + "/{id}", tags=[tag], operation_id=f"{tag}_delete")
    async def delete(id: str, request: Request, who: Who) -> JSON:
        """Call a job off, or forget it."""
        state = state_of(request)
        job = await asyncio.to_thread(jobs.find_job, id, kind, state, who)
        return await jobs.delete(job, state)


def _rest(app: FastAPI) -> None:
    @app.get("/v1/models", tags=["models"])
    def models(request: Request, who: Who) -> JSON:
        """What is served."""
        state = state_of(request)
        return {"object": "list", "data": [model_of(state.choose(name)) for name in state.services]}

    @app.get("/v1/models/{name}", tags=["models"])
    def model(name: str, request: Request, who: Who) -> JSON:
        return model_of(state_of(request).choose(name))

    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready", tags=["operation"])
    async def ready(request: Request) -> Response:
        """Whether it takes requests."""
        state = state_of(request)
        fine = all(service.ready for service in state.services.values())
        status = "stopping" if state.traffic.draining else "ready" if fine else "away"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @app.get("/metrics", tags=["operation"], dependencies=Reader)
    async def metrics(request: Request) -> Response:
        """For Prometheus."""
        return Response(state_of(request).metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False, dependencies=Reader)
    async def docs() -> Response:
        return FileResponse(WEB / "docs.html")

    @app.get("/openapi.json", include_in_schema=False, dependencies=Reader)
    async def openapi() -> Response:
        return JSONResponse(app.openapi())

    @app.get("/v1/formats", tags=["operation"])
    def all_formats(who: Who) -> JSON:
        """The formats of files that are read, whichever way they come."""
        return {"object": "list", "data": [inputs.format_fields(form) for form in formats.table()]}

    @app.post("/v1/inspect", tags=["operation"])
    async def inspect(request: Request, who: Who, file: Annotated[UploadFile, File()]) -> JSON:
        """What a file would be read as, or why it is not: the verdict that it gets by every other
        way."""
        state = state_of(request)
        return await within_deadline(
            request,
            state.service.decode_in_pool(inputs.inspect, await file.read(), "file", state.settings),
        )

    app.router.default = _page(StaticFiles(directory=WEB, html=True))


def _page(files: StaticFiles) -> ASGIApp:
    """The page's files behind all routes, so that what is no route is 404 and a route's other
    methods are 405."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD") or scope["path"].startswith("/v1/"):
            raise HTTPException(404)
        await files(scope, receive, send)

    return answer


def model_of(state: State) -> JSON:
    """Return the model as `/v1/models` lists it, with what goes in and comes out."""
    names = ["mesh" if m == "shape" else m for m in MEDIA]
    return {
        "id": state.settings.name,
        "object": "model",
        "created": int(state.service.started),
        "owned_by": "onnuri",
        "input_modalities": names,
        "output_modalities": names,
        "tokens": {
            n: state.model.layout.spec(m).max_codes for n, m in zip(names, MEDIA, strict=True)
        },
    }


async def _every(seconds: float, work: Callable[[], object]) -> None:
    """Again and again, in a thread; what fails once is tried again."""
    while True:
        await asyncio.sleep(seconds)
        with contextlib.suppress(Exception):
            await asyncio.to_thread(work)
