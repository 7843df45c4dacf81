"""Writes `onnuri/toyworld/front_end/real_words.txt`: words of a language that are one slip away from a word of
the world, and are no slip.

    python benchmarks/real_words.py [--words onnuri/weights/laptop/codecs/text/words.json]

Reads Debian's lists of words (`apt-get install wamerican hunspell-ko`); what is kept are words
only.
"""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from pathlib import Path

import onnuri
from onnuri.toyworld.front_end import spelling

ENGLISH, KOREAN = Path("/usr/share/dict/american-english"), Path("/usr/share/hunspell/ko_KR.dic")
OUT = Path(spelling.__file__).with_name("real_words.txt")


def real() -> set[str]:
    """Return the words of both lists: in English the uncapitalised ones, in Korean those of two
    syllables or more."""
    english = {
        w for w in ENGLISH.read_text(encoding="utf-8").split() if re.fullmatch("[a-z]{4,}", w)
    }
    letters = unicodedata.normalize("NFC", KOREAN.read_text(encoding="utf-8"))
    korean = {line.split("/")[0].strip() for line in letters.splitlines()}
    return english | {w for w in korean if re.fullmatch("[가-힣]{2,}", w)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--words", type=Path, default=onnuri.WEIGHTS / "laptop/codecs/text/words.json"
    )
    settings = parser.parse_args()
    words = spelling.Spelling(
        json.loads(settings.words.read_text(encoding="utf-8"))["words"], real=frozenset()
    )
    kept = sorted(
        w
        for w in real()
        if not words.knows(w) and w not in spelling.COMMON and words.word(w) not in (None, w)
    )
    OUT.write_text("\n".join(kept) + "\n", encoding="utf-8")
    print(f"wrote {len(kept)} words to {OUT.name}")


if __name__ == "__main__":
    main()
