"""This module checks the files of one item and returns them as they are kept: decoded to their end,
in one form per modality, without metadata.

It runs in worker processes and knows no table. What it refuses comes back as a fault, in the words
of the reader that refused it.
"""

from __future__ import annotations

import hashlib
import time

from onnuri.data.ingest import duplicates
from onnuri.data.ingest.records import (
    TEXT_BYTES,
    Fault,
    PreparedItem,
    PreparedPart,
    SourceItem,
    SourcePart,
    fault_of,
)
from onnuri.errors import MediaError
from onnuri.media import formats, reading, vector
from onnuri.media.kept import Kept
from onnuri.modality import language_of


class _Refused(Exception):
    """A _Refused carries the fault of a part."""

    def __init__(self, fault: Fault) -> None:
        """Keep the fault."""
        super().__init__(fault.reason)
        self.fault = fault


def prepare(item: SourceItem) -> PreparedItem:
    """Return an item with its files as they are kept, or with the first fault of its parts."""
    fault = item.fault
    parts: list[PreparedPart] = []
    seconds = 0.0
    for number, part in enumerate(item.parts if fault is None else ()):
        start = time.perf_counter()
        try:
            if part.fault:
                raise _Refused(part.fault)
            parts.append(_text(part) if part.text is not None else _medium(part))
        except _Refused as refused:
            fault = refused.fault._replace(part=number)
        except MediaError as error:
            fault = fault_of(error, number)
        except MemoryError:
            fault = Fault("too_large", f"{part.name}: needs too much memory; resize it", number)
        except Exception as error:  # decoders of others' files fail in ways that nobody lists
            reason = f"{part.name}: breaks its decoder ({type(error).__name__}); save it anew"
            fault = Fault("broke_decoder", reason, number)
        if part.text is None:
            seconds += time.perf_counter() - start
        if fault:
            break
    if fault is None and not parts:
        fault = Fault("empty_item", f"{item.key}: holds nothing; give a file or a text")
    if fault:
        return PreparedItem(item.key, (), item.said, fault, seconds)
    parts = [_with_likeness(part) for part in parts]
    return PreparedItem(item.key, tuple(parts), item.said, None, seconds, _bands(parts))


def _text(part: SourcePart) -> PreparedPart:
    """Return a text part. Raises _Refused for one that is too long or cannot be written."""
    text = (part.text or "").strip()
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _Refused(
            Fault("not_text", f"{part.name}: has half a character; write it anew")
        ) from None
    if size > TEXT_BYTES:
        reason = f"{part.name}: has a text of {size} bytes, at most {TEXT_BYTES} are read; cut it"
        raise _Refused(Fault("text_too_long", reason))
    if not text:
        raise _Refused(Fault("empty_text", f"{part.name}: has an empty text; leave it out"))
    language = (part.language or "").strip().lower() or _language_of(text)
    return PreparedPart(text=text, language=language)


def _language_of(text: str) -> str:
    """Return the language of a text that names none: ko with a Hangul syllable, en in Latin letters
    alone, und (BCP 47: undetermined) for others."""
    if language_of(text) == "ko":
        return "ko"
    latin_end = "\u0250"  # of Latin Extended-B
    return "en" if all(c < latin_end for c in text if c.isalpha()) else "und"


def _medium(part: SourcePart) -> PreparedPart:
    """Return a file as it is kept. Raises MediaError and _Refused for one that is not."""
    data = part.data if part.path is None else reading.read_bytes(part.path)
    data = data or b""
    if part.sha256 and hashlib.sha256(data).hexdigest() != part.sha256.lower():
        reason = f"{part.name}: is not the file of its sha256; fetch it anew"
        raise _Refused(Fault("wrong_hash", reason))
    if formats.sniff(data) == vector.NAME:
        drawn = vector.draw(data, part.name)
        kept = reading.keep(drawn, part.name)._replace(format=vector.NAME)
    else:
        kept = reading.keep(data, part.name, beside=part.beside)
    return PreparedPart(hash=hashlib.sha256(kept.data).hexdigest(), kept=kept)


def _with_likeness(part: PreparedPart) -> PreparedPart:
    """Return a part with that by which near duplicates are found, and without its array."""
    if part.kept is None:
        return part
    likeness = _likeness(part.kept)
    return part._replace(kept=part.kept._replace(array=None), likeness=likeness)


def _likeness(kept: Kept) -> bytes:
    """Return by what a medium is compared with others."""
    if kept.modality == "image":
        return duplicates.picture_likeness(kept.array)
    if kept.modality == "audio":
        return duplicates.sound_likeness(kept.array)
    return b""


def _bands(parts: list[PreparedPart]) -> tuple[int, ...]:
    """Return the MinHash bands of a document of text alone; none for others."""
    if any(part.text is None for part in parts):
        return ()
    return duplicates.text_bands("\n".join(part.text or "" for part in parts))
