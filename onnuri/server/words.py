"""Errors in the words of people, in Korean and English, by their code: what the page shows instead
of a field's path.

A client that sends `Accept-Language` gets them as `error.words`; OpenAI's clients do not send it
and get OpenAI's fields alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnuri.server.errors import JSON, APIError

Words = tuple[str, str]
KINDS: dict[str, Words] = {
    "text": ("글", "text"),
    "image": ("그림", "a picture"),
    "audio": ("소리", "sound"),
    "video": ("동영상", "video"),
    "shape": ("3D", "3D"),
}
WORDS: dict[str, Words] = {
    "invalid_api_key": (
        "이 서버는 열쇠(API 키)가 있어야 답합니다. 설정에 열쇠를 넣어 주세요.",
        "This server answers with an API key only. Put yours into the settings.",
    ),
    "rate_limit_exceeded": (
        "이번 1분 동안 쓸 수 있는 만큼을 다 썼습니다. 잠시 뒤에 다시 물어보세요.",
        "You have used all that your key has for this minute. Ask again in a moment.",
    ),
    "server_busy": (
        "지금 묻는 사람이 너무 많습니다. 잠시 뒤에 다시 물어보세요.",
        "Too many are asking just now. Ask again in a moment.",
    ),
    "shutting_down": (
        "서버가 멈추는 중입니다. 잠시 뒤에 다시 물어보세요.",
        "The server is stopping. Ask again in a moment.",
    ),
    "unavailable": (
        "모델이 잠깐 자리를 비웠습니다. 잠시 뒤에 다시 물어보세요.",
        "The model is away for a moment. Ask again soon.",
    ),
    "timeout": (
        "답이 너무 오래 걸려 그만두었습니다. 더 적게 부탁하거나 다시 물어보세요.",
        "The answer took too long and was called off. Ask for less, or try again.",
    ),
    "internal_error": (
        "서버에 잘못이 있습니다. 다시 물어보세요.",
        "Something is wrong in the server. Ask again.",
    ),
    "body_too_large": (
        "보낸 것이 모두 합쳐 너무 큽니다. 파일을 줄이거나 나누어 보내 주세요.",
        "All that was sent together is too large. Send fewer or smaller files.",
    ),
    "model_not_found": ("그런 모델은 여기 없습니다.", "There is no such model here."),
    "file_too_large": (
        "파일이 너무 큽니다. 더 작은 파일을 주세요.",
        "The file is too large. Give a smaller one.",
    ),
    "empty_file": ("파일이 비어 있습니다.", "The file is empty."),
    "unknown_format": (
        "읽을 수 없는 종류의 파일입니다. 그림, 소리, 동영상, 3D 파일을 주세요.",
        "This is not a file that can be read. Give a picture, a sound, a video or a 3D file.",
    ),
    "unread_format": (
        "{format} 파일은 읽지 못합니다. 다른 형식으로 저장해서 주세요(사진은 JPEG나 PNG).",
        "{format} files cannot be read. Save it in another format (a photograph as JPEG or PNG).",
    ),
    "damaged_file": (
        "파일이 온전하지 않아 읽지 못했습니다({format}). 파일 전체를 다시 주세요.",
        "The file is not whole and could not be read ({format}). Give all of it.",
    ),
    "other_modality": (
        "이 파일은 종류가 다릅니다({modality}). 그 종류로 붙여 주세요.",
        "This file is {modality}. Attach it as that.",
    ),
    "other_file": (
        "이 3D 파일은 색이나 모양의 일부가 다른 파일에 있습니다. 모두 들어 있는 GLB로 저장해서 주세요.",
        "Parts of this 3D file, such as its colours, are in another file. "
        "Save it as a GLB, which holds all.",
    ),
    "compressed_mesh": (
        "{method} 방식으로 압축한 3D는 읽지 못합니다. 압축하지 않고 저장해서 주세요.",
        "3D files compressed with {method} cannot be read. Save it without compression.",
    ),
    "too_many_pixels": (
        "그림이 너무 큽니다. 줄여서 주세요.",
        "The picture is too large. Make it smaller.",
    ),
    "too_long": (
        "너무 깁니다. {most}초까지 읽습니다. 잘라서 주세요.",
        "It is too long: {most} seconds can be read. Cut it.",
    ),
    "too_short": ("소리가 너무 짧습니다.", "The sound is too short."),
    "too_many_faces": (
        "3D가 너무 복잡합니다. 면을 줄여서 주세요.",
        "The 3D model is too complex. Simplify it.",
    ),
    "no_face": ("3D 파일에 면이 없습니다.", "There is no surface in the 3D file."),
    "not_numbers": (
        "파일에 숫자가 아닌 값이 있어 읽지 못했습니다.",
        "The file has values that are not numbers.",
    ),
    "no_extent": ("3D의 크기가 0입니다.", "The 3D model has no size."),
    "nothing_inside": (
        "속이 찬 3D가 아니어서 아무것도 보이지 않습니다. 닫힌 입체를 주세요.",
        "Nothing was seen: the 3D model is flat or open. Give a closed solid.",
    ),
    "blank": (
        "밋밋한 색뿐이라 아무것도 보이지 않습니다.",
        "Nothing was seen: there is only a plain colour.",
    ),
    "silent": ("아무 소리도 들리지 않습니다.", "Nothing was heard: the sound is silent."),
    "odd_sound": ("읽을 수 없는 소리입니다.", "This sound cannot be read."),
    "no_stream": (
        "파일에 그림도 소리도 없습니다.",
        "There are neither pictures nor sound in the file.",
    ),
    "no_frame": ("동영상에 그림이 없습니다.", "There are no pictures in the video."),
    "empty_answer": (
        "답으로 나온 {modality}에 아무것도 없습니다. 다르게 물어보세요.",
        "The answer came out empty ({modality}). Ask in another way.",
    ),
    "too_many_tokens": (
        "한 번에 읽을 수 있는 것보다 많습니다. 더 적게 주세요.",
        "That is more than can be read at once. Give less.",
    ),
}
OTHER: Words = (
    "서버가 이 물음을 받지 못했습니다. 다르게 물어보세요. ({message})",
    "The server did not take this. ({message})",
)


def words_of(problem: APIError, accepted: str) -> str | None:
    """Return the page's sentence for a problem, in the language that the header `Accept-Language`
    prefers; None where it names none."""
    language = accepted.strip().lower()
    if not language or language.startswith("*"):
        return None
    which = 0 if language.startswith("ko") else 1
    about: Mapping[str, Any] = {**problem.about, "message": problem.message}
    about = {
        name: KINDS[value][which] if name == "modality" and value in KINDS else value
        for name, value in about.items()
    }
    try:
        return WORDS.get(problem.code or "", OTHER)[which].format(**about)
    except KeyError:  # an error of that code that says nothing of what it is about
        return OTHER[which].format(**about)


def with_words(problem: APIError, accepted: str) -> JSON:
    """Return the body of an error, with the page's sentence as `words` where the header
    `Accept-Language` asks for one."""
    body, words = problem.body, words_of(problem, accepted)
    return {"error": {**body["error"], "words": words}} if words else body
