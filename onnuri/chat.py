"""`onnuri chat`: a conversation in the terminal. Knows no network: it asks the model, which answers
in a medium.

A line is a sentence, or a command: `/image FILE` (audio, video, shape likewise) adds a file to the
next question, `/to MEDIUM` says what comes back, `/new` forgets what was given, `/quit` ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from onnuri import load, media
from onnuri.errors import ConfigError, OnnuriError
from onnuri.modality import MEDIA, TABLE, Medium
from onnuri.server.client import Remote

HELP = (
    "sentence · /image /audio /video /shape FILE · /to text|image|audio|video|shape · /new · /quit"
)


class ChatSession:
    """What has been given since the last answer, and which medium comes back."""

    def __init__(self, model: Any, out: Path, sampling: dict[str, Any]) -> None:
        self.model, self.out, self.sampling = model, out, sampling
        self.to: Medium = "text"
        self.given: list[tuple[str, Any]] = []
        self.answers = 0

    def say(self, line: str) -> str | None:
        """The answer to one line; None ends the conversation. Raises OnnuriError for a mistake in
        the line."""
        if not line.startswith("/"):
            return self._answer(line)
        command, _, rest = line[1:].partition(" ")
        if command == "quit":
            return None
        if command == "new":
            self.given.clear()
            return "forgotten"
        if command == "to" and rest in MEDIA:
            self.to = rest  # type: ignore[assignment]
            return f"answers are {rest} now"
        if command in MEDIA and command != "text":
            self.given.append(media.take_file(Path(rest).expanduser(), command))  # type: ignore[arg-type]
            return f"{self.given[-1][0]} taken; ask, or press Enter for an answer"
        raise ConfigError(f"/{command} {rest}".strip(), "is not a command", HELP)

    def _answer(self, sentence: str) -> str:
        inputs = self.given + ([("text", sentence)] if sentence else [])
        if not inputs:
            return HELP
        reply = self.model.reply(self.to, inputs, **self.sampling)
        item = reply.item
        self.given.clear()
        media.check_answer(item, self.to)
        told = "".join(f"\n({sentence})" for sentence in reply.told)
        if self.to == "text":
            return f"{item}{told}"
        self.answers += 1
        path = self.out / f"{self.answers:03d}{TABLE[self.to].suffixes[0]}"
        media.make_folder(self.out)
        media.write(item, path)
        return f"→ {path}{told}"


def run(
    out: Path,
    folder: Path | None = None,
    lines: Iterable[str] | None = None,
    server: str | None = None,
    key: str = "none",
    **sampling: Any,
) -> None:
    """Talk until /quit or the end of the input, with a model that is here or with a server's."""
    console = Console()
    conversation = ChatSession(Remote(server, key) if server else load(folder), out, sampling)
    console.print(HELP, style="dim", markup=False)
    for line in lines if lines is not None else _typed(console):
        try:
            answer = conversation.say(line.strip())
        except OnnuriError as error:
            answer = f"onnuri: {error}"
        if answer is None:
            return
        console.print(answer, markup=False)


def _typed(console: Console) -> Iterator[str]:
    while True:
        try:
            yield console.input("[bold]> [/]")
        except EOFError:
            return
