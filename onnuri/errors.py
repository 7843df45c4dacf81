"""This module defines the exception tree. A user's mistake is an OnnuriError: the CLI prints its
one line and exits with status 2.

    OnnuriError
    ├── MediaError        a file or an array cannot be read as the modality it is given as
    ├── ConfigError       a setting does not exist or has an invalid value
    ├── WeightsError      weights are missing, damaged or of another version
    ├── DependencyError   an optional extra is not installed
    ├── BusyError         more requests arrive at once than there is room for
    └── AwayError         the service that should answer is not available at the moment

A message gives the value, the rule and the repair, in one line. Every other exception is a bug of
Onnuri, but for KeyboardInterrupt and Terminated, by which a command ends that was asked to stop.
"""

from __future__ import annotations

STOPPED = 75
"""exit status of training that SIGTERM has stopped and that goes on if it is run again:
sysexits.h's EX_TEMPFAIL. What starts a job again should do so on this status, and look at others"""


class Terminated(KeyboardInterrupt):
    """A Terminated is raised for SIGTERM, as KeyboardInterrupt is for SIGINT."""


class OnnuriError(Exception):
    """An OnnuriError reports a user's mistake: the value, the rule and the repair, in one line.

    `code` names the kind of mistake and `about` holds its figures, for the web page, which words
    and translates it itself.
    """

    def __init__(
        self, value: str, rule: str, repair: str, *, code: str | None = None, **about: object
    ) -> None:
        """Join value, rule and repair to the one-line message `value: rule; repair`."""
        self.value, self.rule, self.repair, self.code, self.about = value, rule, repair, code, about
        super().__init__(" ".join(f"{value}: {rule}; {repair}".split()))

    def __reduce__(self) -> tuple[object, ...]:
        """Return how another rank makes the same error again. `Exception`'s own way calls the
        constructor with the message alone."""
        return type(self).__new__, (type(self), *self.args), vars(self)


class MediaError(OnnuriError):
    """A MediaError reports a file or an array that cannot be read as the modality it is given
    as."""


class ConfigError(OnnuriError):
    """A ConfigError reports a setting that does not exist or has an invalid value."""


class WeightsError(OnnuriError):
    """A WeightsError reports weights that are missing, damaged or of another version."""


class DependencyError(OnnuriError):
    """A DependencyError reports an optional extra that is not installed."""


class BusyError(OnnuriError):
    """A BusyError reports that more requests arrive at once than there is room for."""


class AwayError(OnnuriError):
    """An AwayError reports that the service that should answer is not available at the moment."""
