"""What the command line's parser complains of, as a value, a rule and a repair. Knows no
command."""

from __future__ import annotations

import re

from onnuri.errors import ConfigError
from onnuri.phrases import Phrase

HELP = "see onnuri --help"
FORMS = (
    # the parser's sentence; value, rule and repair, with its groups
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
    """Return the mistake that one line of the parser names; None where it is of no known form."""
    for pattern, *parts in FORMS:
        if found := re.search(pattern, line):
            groups = [
                group.replace(", ", " ") if n == 0 else group
                for n, group in enumerate(found.groups())
            ]
            value, rule, repair = (Phrase(part, *groups) for part in parts)
            return ConfigError(value, rule, repair)
    return None


def language(arguments: list[str]) -> str | None:
    """Return what stands behind --language, before anything is parsed."""
    line = " ".join(arguments)
    found = re.search(r"(?:^|\s)--language[= ](\S+)", line)
    return found[1] if found else None
