"""The server: every route, and what binds them. `onnuri serve` runs it; `create` builds it for
tests.

Routes are thin: their answers are in `openai_chat.py`, `openai_responses.py`,
`openai_completions.py`, `images.py`, `audio.py` and `jobs.py`, the ways of sending them in
`streaming.py`, what comes before them in `middleware.py`.
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

from onnuri import __version__
from onnuri.errors import OnnuriError
from onnuri.media import formats
from onnuri.server import audio, images, inputs, jobs, memory
from onnuri.server.bodies import form_or_json, openapi_body
from onnuri.server.complaints import complaint
from onnuri.server.errors import JSON, APIError, as_api_error, invalid
from onnuri.server.middleware import LOCAL, Guard, client_of
from onnuri.server.openai_chat import ChatAnswer
from onnuri.server.openai_completions import CompletionAnswer
from onnuri.server.openai_responses import ResponseAnswer
from onnuri.server.schemas import (
    MODALITY,
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
    """Return the ASGI application with all routes over one server's state."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        """Tidy the store and trim memory regularly while the server runs; cancel all work at its
        end."""
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
        lifespan=lifespan,
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
    app.add_exception_handler(Exception, _error_response)
    for kind in (APIError, OnnuriError, TimeoutError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _error_response)
    _conversation(app)
    _sounds(app)
    _jobs(app)
    _operation(app)
    return app


async def _error_response(request: Request, error: Exception) -> Response:
    """Return any error as an answer in the client's form; log those that are bugs."""
    if isinstance(error, RequestValidationError):
        problem = complaint(error.errors(), error.body, request.headers.get("content-type", ""))
    elif isinstance(error, HTTPException):
        problem = _framework_error(request, error)
    else:
        problem = as_api_error(error)
    if problem.status >= 500 and problem.code == "internal_error":
        log.error("%s failed", request.state.id, exc_info=error)
    return JSONResponse(
        with_words(problem, request.headers.get("accept-language", "")),
        problem.status,
        problem.headers,
    )


def _framework_error(request: Request, error: HTTPException) -> APIError:
    """Return an error that the framework raises in our words."""
    route = f"{request.method} {request.url.path:.100}"
    if error.status_code == 404:
        return APIError(404, f"{route}: there is no such route; see /docs", "not_found")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return APIError(
            405,
            f"{route}: this route takes {allowed}; use that",
            "method_not_allowed",
            more={"Allow": allowed},
        )
    code = {413: "body_too_large", 408: "request_timeout"}.get(error.status_code, "invalid_request")
    return APIError(
        error.status_code,
        error.detail if error.status_code in (408, 413) else f"{route}: {error.detail}",
        code,
        more=error.headers,
    )


async def _caller(request: Request, bearer: Annotated[Any, Depends(_bearer)]) -> Caller:
    """Return the caller of a request, which is counted towards its limit. Raises APIError where a
    key is needed."""
    local = client_of(request.scope) in LOCAL
    caller = await state_of(request).admit(bearer.credentials if bearer else None, local)
    request.state.caller = caller.id
    request.state.limits = [(k.encode(), v.encode()) for k, v in caller.limits.items()]
    return caller


async def _admit_operator(request: Request) -> None:
    """Let in callers of an operator's pages. They need a key where the API's callers do; a browser
    sends one as a password. Raises APIError."""
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
Reader = [Depends(_admit_operator)]


def _state_for(request: Request, body: Any) -> State:
    """Return the state for the model that a body names. Raises APIError."""
    return state_of(request).choose(body.model)


def _conversation(app: FastAPI) -> None:
    """Add the routes of text and pictures."""

    @app.post("/v1/chat/completions", tags=["conversation"])
    async def chat_completions(body: ChatRequest, request: Request, who: Who) -> Response:
        """Answer a conversation of text, pictures, sounds, videos and meshes with any of these, as
        `modalities` says."""
        answer = ChatAnswer(body, _state_for(request, body), who)
        return await json_or_event_response(request, body.stream, answer.whole, answer.chunks)

    @app.post("/v1/responses", tags=["conversation"])
    async def responses_create(body: ResponseRequest, request: Request, who: Who) -> Response:
        """Answer a conversation with text, and with a picture where the tool that draws is
        given."""
        answer = ResponseAnswer(body, _state_for(request, body), who)
        return await json_or_event_response(
            request, body.stream, answer.whole, answer.events, answer.failed
        )

    @app.post("/v1/images/generations", tags=["images"])
    async def images_generations(body: ImageRequest, request: Request, who: Who) -> Response:
        """Draw pictures from a sentence."""
        return await _pictures(body, request, who)

    @app.post(
        "/v1/images/edits",
        tags=["images"],
        openapi_extra=openapi_body(EditRequest, ("image", "image[]")),
    )
    async def images_edits(request: Request, who: Who) -> Response:
        """Draw pictures from pictures and a sentence that says what to change. The body is a form,
        or JSON."""
        return await _pictures(await form_or_json(request, EditRequest), request, who)

    @app.post("/v1/completions", tags=["conversation"])
    async def text_completions(body: CompletionRequest, request: Request, who: Who) -> Response:
        """Continue a text, and tell how likely each of its tokens is."""
        answer = CompletionAnswer(body, await _state_for(request, body).ask({"text"}), who)
        return await json_or_event_response(request, body.stream, answer.whole, answer.chunks)


async def _pictures(body: ImageRequest, request: Request, who: Caller) -> Response:
    """Return pictures as JSON, or as a stream of events."""
    arguments = (body, _state_for(request, body), who)
    return await json_or_event_response(
        request, body.stream, lambda: images.generate(*arguments), lambda: images.stream(*arguments)
    )


def _sounds(app: FastAPI) -> None:
    """Add the routes of sound."""

    @app.post("/v1/audio/speech", tags=["audio"])
    async def audio_speech(body: SpeechRequest, request: Request, who: Who) -> Response:
        """Speak a sentence."""
        speech = audio.Speech(body, await _state_for(request, body).ask({"audio"}), who)
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
        """Write down what a sound says. The body is a form, or JSON."""
        state, body, samples = await _transcription_input(request)
        if body.stream:
            return await event_response(request, audio.transcription_events(samples, state, who))
        result = await within_deadline(request, audio.transcribe(samples, state, who))
        return _text_or_json(audio.transcription(body.response_format, "transcribe", *result))

    @app.post(
        "/v1/audio/translations",
        tags=["audio"],
        openapi_extra=openapi_body(TranscriptionRequest, ("file",)),
    )
    async def audio_translations(request: Request, who: Who) -> Response:
        """Write down in English what a sound says in any language. The body is a form, or JSON."""
        state, body, samples = await _transcription_input(request)
        if body.stream:
            raise invalid(
                "stream", "a translation comes as a whole; leave it out", code="unsupported_value"
            )
        result = await within_deadline(request, audio.translate(samples, state, who))
        return _text_or_json(audio.transcription(body.response_format, "translate", *result))


async def _transcription_input(request: Request) -> tuple[State, TranscriptionRequest, Any]:
    """Return the state for a request's model, its body, and its sound's samples. Raises APIError
    and MediaError."""
    body = await form_or_json(request, TranscriptionRequest)
    audio.check_transcription({**body.model_dump(), **(body.model_extra or {})})
    state = _state_for(request, body)
    _, samples = await images.read_upload(body.file, "audio", "file", state)
    return await state.ask({"text"}, [("audio", samples)]), body, samples


def _text_or_json(answer: Any) -> Response:
    """Return a transcription as plain text or as JSON."""
    return PlainTextResponse(answer) if isinstance(answer, str) else JSONResponse(answer)


def _jobs(app: FastAPI) -> None:
    """Add the routes of videos and meshes."""

    @app.post(
        "/v1/videos",
        tags=["videos"],
        openapi_extra=openapi_body(VideoRequest, ("input_reference",)),
    )
    async def videos_create(request: Request, who: Who) -> Response:
        """Start a video from a sentence, and perhaps from a picture or another thing to begin from.
        The body is a form, or JSON."""
        body = await form_or_json(request, VideoRequest)
        state = _state_for(request, body)
        width, height = size_of(body.size, "size", even=True)
        seconds = f"{seconds_of(body.seconds, 'seconds'):g}"
        items: list[Any] = [("text", body.prompt)]
        if body.input_reference not in (None, ""):
            items.insert(
                0, await images.read_upload(body.input_reference, None, "input_reference", state)
            )
        about = {
            "prompt": body.prompt,
            "format": "mp4",
            "size": f"{width}x{height}",
            "seconds": seconds,
        }
        return JSONResponse(await jobs.create("video", body, items, about, state, who))

    @app.post("/v1/meshes", tags=["meshes"])
    async def meshes_create(body: MeshRequest, request: Request, who: Who) -> Response:
        """Start a 3D model from a sentence, or from any media."""
        state = _state_for(request, body)
        parts = body.input_reference or []
        if isinstance(parts, str):
            parts = [{"type": "file", "file": {"file_data": parts}}]
        inputs.check_count(parts, state.model.answers, "input_reference")
        items: list[Any] = [
            await state.service.decode_in_pool(
                inputs.load, part, f"input_reference[{k}]", state.settings
            )
            for k, part in enumerate(parts)
        ]
        items += [("text", body.prompt)] if body.prompt and body.prompt.strip() else []
        if not items:
            raise invalid("prompt", "nothing is given; give a sentence or an input_reference")
        about = {"prompt": body.prompt, "format": body.output_format or "glb"}
        return JSONResponse(await jobs.create("mesh", body, items, about, state, who))

    for kind, path in (("video", "/v1/videos"), ("mesh", "/v1/meshes")):
        _job_routes(app, kind, path)


def _job_routes(app: FastAPI, kind: str, path: str) -> None:
    """Add the routes that both kinds of jobs have."""
    tag = path[4:]

    @app.get(path, tags=[tag], operation_id=f"{tag}_list")
    def listing(
        request: Request,
        who: Who,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> JSON:
        """List jobs, the newest first."""
        return jobs.listing(kind, state_of(request), who, limit, after, order)

    @app.get(path + "/{id}", tags=[tag], operation_id=f"{tag}_get")
    def get(id: str, request: Request, who: Who) -> JSON:
        """Tell how far a job is."""
        return jobs.job_fields(jobs.find_job(id, kind, state_of(request), who), state_of(request))

    @app.get(path + "/{id}/content", tags=[tag], operation_id=f"{tag}_content")
    def content(id: str, request: Request, who: Who, variant: str | None = None) -> Response:
        """Return the file of a finished job, or a part of it by `Range`; of a video its `thumbnail`
        too."""
        file, media_type = jobs.content(
            jobs.find_job(id, kind, state_of(request), who), state_of(request), variant
        )
        return (
            Response(file, media_type=media_type)
            if isinstance(file, bytes)
            else FileResponse(file, media_type=media_type)
        )

    @app.delete(path + "/{id}", tags=[tag], operation_id=f"{tag}_delete")
    async def delete(id: str, request: Request, who: Who) -> JSON:
        """Cancel a job, or delete it with its file."""
        state = state_of(request)
        job = await asyncio.to_thread(jobs.find_job, id, kind, state, who)
        return await jobs.delete(job, state)


def _operation(app: FastAPI) -> None:
    """Add the routes of models, health, metrics and file formats, and the page."""

    @app.get("/v1/models", tags=["models"])
    def models(request: Request, who: Who) -> JSON:
        """List the models that are served."""
        state = state_of(request)
        return {"object": "list", "data": [model_of(state.choose(name)) for name in state.names]}

    @app.get("/v1/models/{name}", tags=["models"])
    def model(name: str, request: Request, who: Who) -> JSON:
        """Return one model."""
        return model_of(state_of(request).choose(name))

    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """Tell that the process answers."""
        return {"status": "ok"}

    @app.get("/ready", tags=["operation"])
    async def ready(request: Request) -> Response:
        """Tell whether requests are taken."""
        state = state_of(request)
        fine = all(service.ready for service in state.services.values())
        status = "stopping" if state.traffic.draining else "ready" if fine else "away"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @app.get("/metrics", tags=["operation"], dependencies=Reader)
    async def metrics(request: Request) -> Response:
        """Return the metrics in Prometheus's format."""
        return Response(state_of(request).metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False, dependencies=Reader)
    async def docs() -> Response:
        """Return the page that shows the API's description."""
        return FileResponse(WEB / "docs.html")

    @app.get("/openapi.json", include_in_schema=False, dependencies=Reader)
    async def openapi() -> Response:
        """Return the API's description."""
        return JSONResponse(app.openapi())

    @app.get("/v1/formats", tags=["operation"])
    def all_formats(who: Who) -> JSON:
        """List the formats of files that are read, whichever way they come."""
        return {"object": "list", "data": [inputs.format_fields(form) for form in formats.table()]}

    @app.post("/v1/inspect", tags=["operation"])
    async def inspect(request: Request, who: Who, file: Annotated[UploadFile, File()]) -> JSON:
        """Tell what a file would be read as, or why it would not; every other way of sending it
        gets the same verdict."""
        state = state_of(request)
        return await within_deadline(
            request,
            state.service.decode_in_pool(inputs.inspect, await file.read(), "file", state.settings),
        )

    app.router.default = _page(StaticFiles(directory=WEB, html=True))


def _page(files: StaticFiles) -> ASGIApp:
    """Return an ASGI app of the page's files, to stand behind all routes: what is no route is 404
    and a route's other methods are 405."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        """Send a file of the page."""
        if scope["method"] not in ("GET", "HEAD") or scope["path"].startswith("/v1/"):
            raise HTTPException(404)
        await files(scope, receive, send)

    return answer


def model_of(state: State) -> JSON:
    """Return the model as `/v1/models` lists it, with the modalities that it reads and makes; of
    several together, those of any, and the models' names as `asks`."""
    specs = {
        spec.name: spec
        for name in reversed(state.together or (state.name,))  # the first one's stands
        for spec in state.services[name].model.layout.codecs
    }
    names = {name: specs[modality] for name, modality in MODALITY.items() if modality in specs}
    return {
        "id": state.name,
        "object": "model",
        "created": int(state.service.started),
        "owned_by": "onnuri",
        "input_modalities": [*names],
        "output_modalities": [*names],
        "tokens": {name: spec.max_codes for name, spec in names.items()},
        **({"asks": [*state.together]} if state.together else {}),
    }


async def _every(seconds: float, work: Callable[[], object]) -> None:
    """Run a call in a thread every so many seconds, for ever; its errors are ignored."""
    while True:
        await asyncio.sleep(seconds)
        with contextlib.suppress(Exception):
            await asyncio.to_thread(work)
