"""This module lets `python -m onnuri` be the `onnuri` command, as torchrun starts it."""

from onnuri.cli import main

if __name__ == "__main__":
    main()
