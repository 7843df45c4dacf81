"""The exception tree. A user's mistake is an OnnuriError: the CLI prints its one line and exits
with status 2.

    OnnuriError
    ├── MediaError        a file or an array that cannot be read as the medium it is given as
    ├── ConfigError       a setting that does not exist or does not hold
    ├── WeightsError      weights that are missing, damaged or of another version
    ├── DependencyError   an optional extra that is not installed
    ├── BusyError         more is asked for at once than there is room for
    └── AwayError         what is to answer is not there for the moment

A message gives the value, the rule and the repair, in one line. Everything else that is raised is a
bug of ours.
"""

from __future__ import annotations


class OnnuriError(Exception):
    """A user's mistake: the value, the rule, the repair, in one line.

    `code` names the kind of mistake, and `about` what it is about, for whoever says it in other
    words (the page).
    """

    def __init__(
        self, value: str, rule: str, repair: str, *, code: str | None = None, **about: object
    ) -> None:
        self.value, self.rule, self.repair, self.code, self.about = value, rule, repair, code, about
        super().__init__(" ".join(f"{value}: {rule}; {repair}".split()))


class MediaError(OnnuriError):
    """A file or an array that cannot be read as the medium it is given as."""


class ConfigError(OnnuriError):
    """A setting that does not exist or does not hold."""


class WeightsError(OnnuriError):
    """Weights that are missing, damaged or of another version."""


class DependencyError(OnnuriError):
    """An optional extra that is not installed."""


class BusyError(OnnuriError):
    """More is asked for at once than there is room for."""


class AwayError(OnnuriError):
    """What is to answer is not there for the moment."""
