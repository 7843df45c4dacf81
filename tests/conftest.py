"""One thread a test process (two run side by side), no time limit of an example, and the shipped
codecs and model, loaded once.

Imports torch where tests run only: pytest's own process, when it runs tests in others, would take
seconds for nothing.
"""

from __future__ import annotations

import hypothesis
import pytest

# how long an example takes says more of the machine than of the code
hypothesis.settings.register_profile("onnuri", deadline=None)
hypothesis.settings.load_profile("onnuri")


def pytest_configure(config: pytest.Config) -> None:
    """Set one thread in every process that runs tests."""
    runs_tests = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    if runs_tests:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def codecs() -> dict:
    import onnuri
    from onnuri.model.omni import load_codecs

    return load_codecs(onnuri.WEIGHTS / "laptop" / "codecs")


@pytest.fixture(scope="session")
def model():
    import onnuri

    return onnuri.load()
