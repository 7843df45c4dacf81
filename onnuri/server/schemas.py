"""The bodies of requests, field by field. Unknown fields are accepted, as newer clients have more
of them."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from onnuri.modality import Language, Modality
from onnuri.server.events import OutputSpec

Wanted = Literal["text", "image", "audio", "video", "mesh"]
MODALITY: dict[str, Modality] = {
    "text": "text",
    "image": "image",
    "audio": "audio",
    "video": "video",
    "mesh": "shape",
}
"""the API's names of media"""
API_NAMES = {modality: name for name, modality in MODALITY.items()}
SoundFormat = Literal["wav", "mp3", "flac", "opus", "aac", "pcm", "pcm16"]
Seed = Annotated[int | None, Field(ge=-(2**63), le=2**63 - 1)]


def _check_surrogates(text: str) -> str:
    """Return a text as it is. Raises ValueError where it has a lone surrogate, half a letter, which
    JSON can hold and no text can."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("has half a letter in it (a lone surrogate); send whole ones")
    return text


ValidText = Annotated[str, AfterValidator(_check_surrogates)]
Prompt = Annotated[ValidText, Field(min_length=1, max_length=4000)]


class _Body(BaseModel):
    """The base of all bodies and their parts; it keeps unknown fields."""

    model_config = ConfigDict(extra="allow")


class SamplingFields(_Body):
    """How tokens are sampled; a field that is left out is the model's own."""

    model: str | None = None
    seed: Seed = None
    temperature: Annotated[float | None, Field(ge=0, le=5)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    guidance: Annotated[float | None, Field(ge=0, le=20)] = None
    """classifier-free guidance: 1 is none"""
    language: Language | None = None
    """of text and speech; without it, that of what was said"""

    def seed_or_any(self) -> int:
        """Return the seed that the request gives, or a random one."""
        return secrets.randbits(31) if self.seed is None else self.seed

    def output_spec(self, to: Modality, language: Language, seed: int, **more: Any) -> OutputSpec:
        """Return one item that is wanted, with the request's sampling parameters."""
        return OutputSpec(
            to=to,
            language=language,
            seed=seed,
            temperature=self.temperature,
            top_p=self.top_p,
            guidance=self.guidance,
            **more,
        )


class AudioOut(_Body):
    """The voice and the file format of spoken answers."""

    voice: Any = "default"
    format: SoundFormat = "wav"


class StreamOptions(_Body):
    """What a stream tells beside its chunks."""

    include_usage: bool = False


class Message(_Body):
    """One message of a conversation: text, or parts with text and media."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: ValidText | list[dict[str, Any]] | None = None
    images: list[dict[str, Any]] | None = None
    videos: list[dict[str, Any]] | None = None
    meshes: list[dict[str, Any]] | None = None
    audio: dict[str, Any] | None = None


class JsonSchema(_Body):
    """The JSON schema that the text of an answer must follow."""

    name: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(_Body):
    """The format of the answer's text; without it, words."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(_Body):
    """The name of a function, and the JSON schema of its parameters."""

    name: FunctionName
    parameters: dict[str, Any] | None = None


class Tool(_Body):
    """A function of yours that the model may call."""

    type: Literal["function"]
    function: Function


class ChatRequest(SamplingFields):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=200)]
    modalities: Annotated[list[Wanted], Field(min_length=1, max_length=5)] | None = None
    audio: AudioOut | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    n: Annotated[int | None, Field(ge=1, le=8)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=64)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Tool | None = None
    partial_images: Annotated[int | None, Field(ge=0, le=3)] = None

    @property
    def wanted(self) -> list[Wanted]:
        """Return the modalities of the answer."""
        return self.modalities or ["text"]

    @property
    def most_tokens(self) -> int | None:
        """Return the most tokens of the answer's text, None for the model's own limit."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(SamplingFields):
    """The body of `/v1/completions`."""

    prompt: (
        ValidText
        | Annotated[
            list[ValidText] | list[int] | list[list[int]], Field(min_length=1, max_length=4096)
        ]
    )
    """a string, a list of them, the ids of one, or a list of such lists"""
    max_tokens: Annotated[int | None, Field(ge=0)] = None
    n: Annotated[int | None, Field(ge=1, le=8)] = None
    best_of: int | None = None
    echo: bool | None = False
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None


class PictureForm(_Body):
    """The size and the file format of pictures."""

    size: str | None = None
    background: Literal["auto", "opaque"] | None = None
    output_compression: Annotated[int | None, Field(ge=0, le=100)] = None
    """quality of JPEG and WebP"""
    output_format: Literal["png", "jpeg", "webp"] | None = None
    partial_images: Annotated[int | None, Field(ge=0, le=3)] = None


class ImageTool(PictureForm):
    """The tool that draws, in `/v1/responses`."""

    type: Literal["image_generation"]
    model: str | None = None
    input_image_mask: Any = None


class FunctionTool(_Body):
    """A function of yours that the model may call, in `/v1/responses`."""

    type: Literal["function"]
    name: FunctionName
    parameters: dict[str, Any] | None = None
    description: ValidText | None = None
    strict: bool | None = None


class ToolChoice(_Body):
    """The choice of the tool that draws."""

    type: Literal["image_generation"]


class FunctionChoice(_Body):
    """The choice of one function by its name."""

    type: Literal["function"]
    name: ValidText


class TextFormat(_Body):
    """The format of the answer's text, in `/v1/responses`; without it, a sentence."""

    type: Literal["text", "json_object", "json_schema"]
    name: ValidText | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class TextOut(_Body):
    """The settings of the answer's text, in `/v1/responses`."""

    format: TextFormat | None = None


class ResponseRequest(SamplingFields):
    """The body of `/v1/responses`."""

    input: ValidText | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=200)]
    instructions: ValidText | None = None
    tools: (
        Annotated[
            list[Annotated[ImageTool | FunctionTool, Field(discriminator="type")]],
            Field(max_length=64),
        ]
        | None
    ) = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | FunctionChoice | None = None
    text: TextOut | None = None
    stream: bool | None = False
    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    metadata: dict[ValidText, ValidText] | None = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    background: Any = None

    @field_validator("tools", mode="before")
    @classmethod
    def _known_tools(cls, tools: Any) -> Any:
        """Return the tools as they are. Raises ValueError, which names the tool, for one of another
        type or a second tool that draws."""
        kinds = (
            [tool.get("type", "") for tool in tools if isinstance(tool, dict)]
            if isinstance(tools, list)
            else []
        )
        for kind in kinds:
            if kind not in ("image_generation", "function"):
                raise ValueError(
                    f"{kind!r:.80} is not a tool that is here; give image_generation or functions"
                )
        if kinds.count("image_generation") > 1:
            raise ValueError("image_generation is given twice; give it once")
        return tools


class ImageRequest(SamplingFields, PictureForm):
    """The body of `/v1/images/generations`."""

    prompt: Prompt
    n: Annotated[int | None, Field(ge=1, le=10)] = 1
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = False


class EditRequest(ImageRequest):
    """The body of `/v1/images/edits`: a form, or JSON. Clients name a lone picture `image`, each of
    several `image[]` or, in JSON, `images`."""

    image: list[Any] | Any = None
    images: list[Any] | Any = None
    mask: Any = None
    markup: Any = None


class VideoRequest(SamplingFields):
    """The body of `/v1/videos`: a form, or JSON."""

    prompt: Prompt
    seconds: str | float | None = None
    size: str | None = None
    input_reference: Any = None
    """a picture or another thing to begin from"""


class SpeechRequest(SamplingFields):
    """The body of `/v1/audio/speech`."""

    input: Prompt
    voice: Any = "default"
    response_format: SoundFormat | None = None
    stream_format: Literal["sse", "audio"] | None = None
    speed: Annotated[float | None, Field(ge=0.25, le=4)] = None


class TranscriptionRequest(_Body):
    """The body of `/v1/audio/transcriptions` and `/v1/audio/translations`: a form, or JSON with the
    file in base64."""

    file: Any
    model: str | None = None
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] = "json"
    stream: bool | None = False
    language: str | None = None
    timestamp_granularities: list[Literal["word", "segment"]] | None = None


class MeshRequest(SamplingFields):
    """The body of `/v1/meshes`: a sentence, or any media as the parts of a message."""

    prompt: Annotated[ValidText | None, Field(max_length=4000)] = None
    input_reference: ValidText | list[dict[str, Any]] | None = None
    """a data URI, or parts such as {"type": "image_url", …}"""
    output_format: Literal["glb", "obj", "ply", "stl"] | None = None
