"""Show on stderr how far a search is: a line that moves on a terminal, a plain line every half
minute elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self, TextIO

from onnuri.modality import Language
from onnuri.planner.words import catalogue

EVERY_SECONDS = 30.0
"""seconds between plain lines, so that an error after a shorter search is the only line of a log"""


class SearchProgress:
    """Shows what a search reports: the count of GPUs that it tries and the best one so far."""

    def __init__(self, language: Language = "en", stream: TextIO | None = None) -> None:
        self.say, self.stream = catalogue(language), stream or sys.stderr
        self._status: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        """Start the moving line where the stream is a terminal, and return the progress itself."""
        if self.stream.isatty():
            from rich.console import (
                Console,
            )  # here, because a search that is kept needs no terminal

            self._status = Console(file=self.stream).status(self.say("searching"))
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the moving line, whether the search ended or failed."""
        if self._status is not None:
            self._status.stop()

    def __call__(self, gpus: int, best: int) -> None:
        """Show that so many GPUs are being tried, and the best count so far."""
        line = self.say("searching on", gpus=f"{gpus:,}", best=f"{best:,}")
        if self._status is not None:
            self._status.update(line)
        elif time.monotonic() - self._last >= EVERY_SECONDS:
            self._last = time.monotonic()
            print(line, file=self.stream, flush=True)
