"""What every test may use. A fixture that one room alone needs lives in that room's conftest."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from hypothesis import settings

from jupyter_agentstore import data

pytest_plugins = ["pytest_jupyter.jupyter_server"]

# Workers share the processor: an example's time says nothing about the code.
settings.register_profile("shared", settings.get_profile("default"), deadline=None)
settings.load_profile("shared")


@pytest.fixture(scope="session")
def dialogs() -> list[dict[str, Any]]:
    """The shipped dialogs; not to be changed."""
    return data.dialogs()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Debian's Chromium. Without it a test fails: a browser that is missing is no reason to skip."""
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("chromium is not on the PATH; `make browser` installs it")
    return path
