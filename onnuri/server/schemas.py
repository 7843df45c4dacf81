"""What clients send, field by field. Unknown fields pass, as newer clients have more of them."""

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
SoundFormat = Literal["wav", "mp3", "flac", "opus", "aac", "pcm", "pcm16"]
Seed = Annotated[int | None, Field(ge=-(2**63), le=2**63 - 1)]


def _writable(text: str) -> str:
    """Half a letter (a lone surrogate), which JSON can hold, is no text."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("has half a letter in it (a lone surrogate); send whole ones")
    return text


Said = Annotated[str, AfterValidator(_writable)]
Prompt = Annotated[Said, Field(min_length=1, max_length=4000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")


class SamplingFields(_Body):
    """How tokens are drawn; what is not given is the model's own."""

    model: str | None = None
    seed: Seed = None
    temperature: Annotated[float | None, Field(ge=0, le=5)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    guidance: Annotated[float | None, Field(ge=0, le=20)] = None
    """classifier-free guidance: 1 is none"""
    language: Language | None = None
    """of text and speech; without it, that of what was said"""

    def seed_or_any(self) -> int:
        """Return the seed that was given, or a random one."""
        return secrets.randbits(31) if self.seed is None else self.seed

    def output_spec(self, to: Modality, language: Language, seed: int, **more: Any) -> OutputSpec:
        """Return one item that is wanted, sampled as was asked."""
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
    voice: Any = "default"
    format: SoundFormat = "wav"


class StreamOptions(_Body):
    include_usage: bool = False


class Message(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Said | list[dict[str, Any]] | None = None
    images: list[dict[str, Any]] | None = None
    videos: list[dict[str, Any]] | None = None
    meshes: list[dict[str, Any]] | None = None
    audio: dict[str, Any] | None = None


class JsonSchema(_Body):
    name: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(_Body):
    """Of the text; without it, words."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(_Body):
    name: FunctionName
    parameters: dict[str, Any] | None = None


class Tool(_Body):
    type: Literal["function"]
    function: Function


class ChatRequest(SamplingFields):
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
        """Return the limit of its text."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(SamplingFields):
    """`/v1/completions`."""

    prompt: (
        Said
        | Annotated[list[Said] | list[int] | list[list[int]], Field(min_length=1, max_length=4096)]
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
    """How a picture is to be given."""

    size: str | None = None
    background: Literal["auto", "opaque"] | None = None
    output_compression: Annotated[int | None, Field(ge=0, le=100)] = None
    """quality of JPEG and WebP"""
    output_format: Literal["png", "jpeg", "webp"] | None = None
    partial_images: Annotated[int | None, Field(ge=0, le=3)] = None


class ImageTool(PictureForm):
    """What draws in `/v1/responses`."""

    type: Literal["image_generation"]
    model: str | None = None
    input_image_mask: Any = None


class FunctionTool(_Body):
    """A function of the client's, in `/v1/responses`."""

    type: Literal["function"]
    name: FunctionName
    parameters: dict[str, Any] | None = None
    description: Said | None = None
    strict: bool | None = None


class ToolChoice(_Body):
    type: Literal["image_generation"]


class FunctionChoice(_Body):
    type: Literal["function"]
    name: Said


class TextFormat(_Body):
    """Of the words of `/v1/responses`; without it, a sentence."""

    type: Literal["text", "json_object", "json_schema"]
    name: Said | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class TextOut(_Body):
    format: TextFormat | None = None


class ResponseRequest(SamplingFields):
    input: Said | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=200)]
    instructions: Said | None = None
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
    metadata: dict[Said, Said] | None = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    background: Any = None

    @field_validator("tools", mode="before")
    @classmethod
    def _known_tools(cls, tools: Any) -> Any:
        """Says more of another tool than that its type is neither of these."""
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
    prompt: Prompt
    n: Annotated[int | None, Field(ge=1, le=10)] = 1
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = False


class EditRequest(ImageRequest):
    """A form, or JSON. Clients name a lone picture `image`, each of several `image[]` or, in JSON,
    `images`."""

    image: list[Any] | Any = None
    images: list[Any] | Any = None
    mask: Any = None
    markup: Any = None


class VideoRequest(SamplingFields):
    """`/v1/videos`: a form, or JSON."""

    prompt: Prompt
    seconds: str | float | None = None
    size: str | None = None
    input_reference: Any = None
    """a picture or another thing to begin from"""


class SpeechRequest(SamplingFields):
    input: Prompt
    voice: Any = "default"
    response_format: SoundFormat | None = None
    stream_format: Literal["sse", "audio"] | None = None
    speed: Annotated[float | None, Field(ge=0.25, le=4)] = None


class TranscriptionRequest(_Body):
    """`/v1/audio/transcriptions` and translations: a form, or JSON with the file in base64."""

    file: Any
    model: str | None = None
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] = "json"
    stream: bool | None = False
    language: str | None = None
    timestamp_granularities: list[Literal["word", "segment"]] | None = None


class MeshRequest(SamplingFields):
    """`/v1/meshes`: a sentence, or any media as a message's parts."""

    prompt: Annotated[Said | None, Field(max_length=4000)] = None
    input_reference: Said | list[dict[str, Any]] | None = None
    """a data URI, or parts such as {"type": "image_url", …}"""
    output_format: Literal["glb", "obj", "ply", "stl"] | None = None
