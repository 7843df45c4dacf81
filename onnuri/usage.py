"""This module turns error messages of the command line's parser into a value, a rule and a repair.

It knows no command.
"""

from __future__ import annotations

import re

from onnuri.errors import ConfigError
from onnuri.phrases import Phrase

HELP = "see onnuri --help"
FORMS = (
    # a pattern of the parser's message; value, rule and repair, formatted with its groups
    (
        r"Error parsing (--[\w-]+): .*?\bINT\b.*?from \[('[^']*')",
        "{0} {1}",
        "is not a whole number",
        "write such as {0} 8",
    ),
    (
        r"Error parsing (--[\w-]+): .*?\bFLOAT\b.*?from \[('[^']*')",
        "{0} {1}",
        "is not a number",
        "write such as {0} 2.5",
    ),
    (
        r"Error parsing (--[\w-]+): invalid literal for int\(\) .*?: ('[^']*')",
        "{0} {1}",
        "is not a whole number",
        "write such as {0} 8",
    ),
    (
        r"Error parsing (--[\w-]+): could not convert string to float: ('[^']*')",
        "{0} {1}",
        "is not a number",
        "write such as {0} 2.5",
    ),
    (
        r"Missing value for argument '(--[\w-]+)'",
        "{0}",
        "has no value",
        "write one behind it, or leave it out",
    ),
    (
        r"invalid choice ('[^']*') for argument '(--[\w-]+)'\. Expected one of \((.*?),?\)",
        "{1} {0}",
        "is not known",
        "use {2}",
    ),
    (
        r"invalid choice ('[^']*') for argument '(?:\w+\.)*(\w+)'\. Expected one of \((.*?),?\)",
        "{1} {0}",
        "is not known",
        "use {2}",
    ),
    (
        r"Missing from (onnuri[\w -]*): (?:-\w \S+, )?(--[\w-]+) (\S+)",
        "{1}",
        "is missing",
        "write {1} {2}, or see {0} --help",
    ),
    (
        r"Unrecognized options?: ([^;]+?); Perhaps you meant: (--[\w-]+)",
        "{0}",
        "is not an option here",
        "did you mean {1}?",
    ),
    (r"Unrecognized options?: (--[^;]+?)(?:;|$)", "{0}", "is not an option here", HELP),
    (
        r"Unrecognized options?: ([^;]+?)(?:;|$)",
        "{0}",
        "is not expected here",
        "leave it out, or " + HELP,
    ),
)


def mistake(line: str) -> ConfigError | None:
    """Return the mistake that one line of the parser reports; None if its form is not known."""
    for pattern, *parts in FORMS:
        if match := re.search(pattern, line):
            first, *others = match.groups()
            groups = [first.replace(", ", " "), *others]  # several options in one message
            value, rule, repair = (Phrase(part, *groups) for part in parts)
            return ConfigError(value, rule, repair)
    return None


def language(arguments: list[str]) -> str | None:
    """Return the value of --language; needed before arguments are parsed, for the help is
    translated too."""
    match = re.search(r"(?:^|\s)--language[= ](\S+)", " ".join(arguments))
    return match[1] if match else None
