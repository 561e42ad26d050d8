"""One JupyterLab and one browser for a module's tests; each test has a page and a notebook of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.lab import Lab, chromium_at, jupyterlab


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """Instead of pytest-jupyter's, which would want an event loop of its own; no server runs in this process."""


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """None; the browser has one."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with jupyterlab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    # Of a module, not of the session: as long as it runs, no other test can run an event loop.
    with chromium_at(chromium) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()
