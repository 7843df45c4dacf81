"""This module decides which licences `--licence permissive` lets in: those that allow anyone to
use, change and pass on a work for any purpose, with no more than credit and a notice in return.

Share-alike (CC-BY-SA, GPL), no derivatives (-ND) and no commerce (-NC) are not in it, and neither
is a work that names no licence.
"""

from __future__ import annotations

import re

PERMISSIVE = (
    *("CC0-1.0", "PDDL-1.0", "Unlicense", "0BSD", "MIT-0", "CC-PDDC"),
    *("CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0", "ODC-By-1.0"),
    *("MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "BSL-1.0"),
    *("Python-2.0", "PSF-2.0", "NCSA", "X11", "HPND", "FTL", "libpng-2.0", "Artistic-2.0"),
    *("KOGL-1.0", "OGL-UK-3.0", "etalab-2.0"),
)
"""SPDX identifiers (spdx.org/licenses), and KOGL-1.0: the Korea Open Government License, type 1"""
SPELLINGS = {
    "cc0": "CC0-1.0",
    "public-domain": "CC-PDDC",
    "pd": "CC-PDDC",
    "pdm": "CC-PDDC",
    "apache2": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "apache": "Apache-2.0",
    "bsd": "BSD-2-Clause",
    "bsd-2": "BSD-2-Clause",
    "bsd-3": "BSD-3-Clause",
    "cc-by": "CC-BY-4.0",
    "kogl-type1": "KOGL-1.0",
    "kogl-1": "KOGL-1.0",
}
"""identifiers by other spellings, as `spelled` writes them"""
CREATIVE = re.compile(r"creativecommons\.org/(?:licenses|publicdomain)/([a-z-]+)/(\d\.\d)")


def identifier(licence: str) -> str:
    """Return the SPDX identifier of a licence's usual spellings, such as "CC BY 4.0" or its
    address; what is not known stays as it is."""
    if match := CREATIVE.search(licence.lower()):
        name, version = match.groups()
        name = {"zero": "CC0", "mark": "CC-PDDC"}.get(name, f"CC-{name.upper()}")
        return "CC-PDDC" if name == "CC-PDDC" else f"{name}-{version}"
    words = re.sub(r"[\s_]+", "-", licence.strip().lower())
    words = words.removeprefix("the-").removesuffix("-licence").removesuffix("-license")
    by_name = {name.lower(): name for name in PERMISSIVE}
    return by_name.get(words) or SPELLINGS.get(words) or licence.strip()


def is_permissive(licence: str | None) -> bool:
    """Return whether a licence is permissive. Of several (`MIT OR GPL-3.0-only`) one is enough, of
    several together (`MIT AND CC-BY-4.0`) all must be."""
    if not licence:
        return False
    choices = re.split(r"\s+OR\s+", licence.strip().strip("()"))
    together = (re.split(r"\s+AND\s+", choice.strip().strip("()")) for choice in choices)
    return any(all(identifier(name) in PERMISSIVE for name in names) for names in together)
