"""This module implements `onnuri chat`, a conversation with a model in the terminal.

It knows no network. A line is a sentence or a command: `/image FILE` (audio, video, shape likewise)
adds a file to the next question, `/to MODALITY` chooses the modality of answers, `/new` drops the
files added so far, `/quit` ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from onnuri import shipped
from onnuri.errors import ConfigError, OnnuriError
from onnuri.files import make_folder
from onnuri.inference.device import DeviceName
from onnuri.media import reading, writing
from onnuri.modality import MEDIA, TABLE, Modality
from onnuri.server.client import Remote

HELP = (
    "sentence · /image /audio /video /shape FILE · /to text|image|audio|video|shape · /new · /quit"
)


class ChatSession:
    """A ChatSession holds the inputs since the last answer and the modality of the next one."""

    def __init__(self, model: Any, out: Path, sampling: dict[str, Any]) -> None:
        """Begin a conversation with a model (local or a server's); answers other than text are
        written to the folder `out`."""
        self.model, self.out, self.sampling = model, out, sampling
        self.to: Modality = "text"
        self.inputs: list[tuple[str, Any]] = []
        self.answers = 0

    def say(self, line: str) -> str | None:
        """Return the reply to one line; None ends the conversation. Raises OnnuriError for a
        mistake in the line."""
        if not line.startswith("/"):
            return self._answer(line)
        command, _, rest = line[1:].partition(" ")
        if command == "quit":
            return None
        if command == "new":
            self.inputs.clear()
            return "forgotten"
        if command == "to" and rest in MEDIA:
            self.to = rest  # type: ignore[assignment]
            return f"answers are {rest} now"
        if command in MEDIA and command != "text":
            path = Path(rest).expanduser()
            self.inputs.append(reading.take_file(path, command))  # type: ignore[arg-type]
            return f"{self.inputs[-1][0]} taken; ask, or press Enter for an answer"
        raise ConfigError(f"/{command} {rest}".strip(), "is not a command", HELP)

    def _answer(self, sentence: str) -> str:
        """Return the model's answer to the inputs so far and a sentence, as text or as the path of
        the file that holds it."""
        inputs = [*self.inputs]
        if sentence:
            inputs.append(("text", sentence))
        if not inputs:
            return HELP
        reply = self.model.reply(self.to, inputs, **self.sampling)
        item = reply.item
        self.inputs.clear()
        writing.check_answer(item, self.to)
        told = [*reply.told, reply.model] if reply.model else reply.told
        notes = "".join(f"\n({note})" for note in told)
        if self.to == "text":
            return f"{item}{notes}"
        self.answers += 1
        path = self.out / f"{self.answers:03d}{TABLE[self.to].suffixes[0]}"
        make_folder(self.out)
        writing.write(item, path)
        return f"→ {path}{notes}"


def run(
    out: Path,
    folder: Path | None = None,
    lines: Iterable[str] | None = None,
    server: str | None = None,
    key: str = "none",
    device: DeviceName = "cpu",
    **sampling: Any,
) -> None:
    """Run a conversation until /quit or the end of the input.

    The model is that of a `server` address, of a `folder`, or the one that ships; `lines` replace
    what would be typed. `device` is where a model that is not a server's decodes.
    """
    console = Console()
    model = Remote(server, key) if server else shipped(folder, device=device)
    session = ChatSession(model, out, sampling)
    console.print(HELP, style="dim", markup=False)
    for line in lines if lines is not None else _typed(console):
        try:
            answer = session.say(line.strip())
        except OnnuriError as error:
            answer = f"onnuri: {error}"
        if answer is None:
            return
        console.print(answer, markup=False)


def _typed(console: Console) -> Iterator[str]:
    """Yield the lines that a user types in the terminal, until the end of the input."""
    while True:
        try:
            yield console.input("[bold]> [/]")
        except EOFError:
            return
