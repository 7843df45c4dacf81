"""Write how often each word of a model's list begins a sentence of training: `python
benchmarks/word_starts.py [--folder MODEL]`.

For a folder whose list (`codecs/text/words.json`) is older than that count; `onnuri train laptop
--preset words` writes both. The sentences are those from which a text codec learns today. Knows
neither the tokenizer nor the weights, and changes none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import onnuri
from onnuri.files import write_json
from onnuri.recipes.laptop import sentences_of_training
from onnuri.toyworld.front_end.spelling import Spelling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=onnuri.WEIGHTS / "laptop")
    folder = parser.parse_args().folder
    try:
        words, about = (
            Spelling.load(folder / "codecs/text"),
            json.loads((folder / "onnuri.json").read_text(encoding="utf-8")),
        )
    except (OSError, ValueError, KeyError):
        parser.error(f"{folder}: is no whole folder of a model; fetch or export it again")
    if words is None:
        parser.error(
            f"{folder}: has no list of words; give the folder of a model that has codecs/text/words.json"
        )
    starts = Spelling.learn(sentences_of_training()).starts
    Spelling(
        words.counts, {word: count for word, count in starts.items() if word in words.counts}
    ).save(folder / "codecs/text")
    name = "codecs/text/words.json"
    about["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    write_json(about, folder / "onnuri.json", indent=2)
    print(f"wrote {folder / name}")


if __name__ == "__main__":
    main()
