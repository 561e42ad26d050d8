"""A real JupyterLab, and a browser to use it in, as the browser's tests and the pictures in ``docs/`` need them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.client.jupyter import Jupyter

ARGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]

SETTINGS = {
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
    "docmanager-extension/plugin": {"autosave": False},
}
"""Of JupyterLab: nothing that asks or comes in between."""


@contextmanager
def chromium_at(path: str) -> Iterator[Browser]:
    """Debian's Chromium with a new profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


@contextmanager
def jupyterlab(folder: Path, *, delay: float = 0.3) -> Iterator[Lab]:
    """A JupyterLab of its own, with all that it keeps in the folder."""
    server = Jupyter(folder, delay=delay)
    for name, values in SETTINGS.items():
        file = folder / "config" / "lab" / "user-settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    server.start()
    try:
        yield Lab(server)
    finally:
        server.stop()


class Lab:
    """A JupyterLab server, seen from outside."""

    def __init__(self, server: Jupyter) -> None:
        self.server = server

    def write(self, name: str, cells: Sequence[str]) -> str:
        """Put a notebook with these code cells into the server's root; its path there."""
        book = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        (self.server.folder / "root" / f"{name}.ipynb").write_text(nbformat.writes(book))
        return f"{name}.ipynb"

    def open(self, page: Page, path: str) -> Notebook:
        """Open a notebook on its own in a page, and wait until its kernel is there."""
        page.goto(f"{self.server.url}/lab/tree/{path}?reset&token={self.server.token}")
        notebook = Notebook(page)
        notebook.ready()
        return notebook

    def set(self, plugin: str, values: dict[str, Any]) -> None:
        """Change JupyterLab's settings; pages see them when they load."""
        with self.server.http() as http:
            http.put(
                f"/lab/api/settings/@jupyterlab/{plugin}", json={"raw": json.dumps(values)}
            ).raise_for_status()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """A REST call to the extension."""
        with self.server.http() as http:
            answer = http.post(f"/agentstore/{path}", json=body)
            answer.raise_for_status()
            return answer.json()


class Notebook:
    """An open notebook, used as a person does."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def ready(self) -> None:
        expect(self.page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=60_000)
        # What the toolbar says may still be of a kernel to come.
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=60_000)

    @property
    def cells(self) -> Locator:
        return self.page.locator(".jp-Notebook .jp-Cell")

    @property
    def pane(self) -> Pane:
        return Pane(self.page.locator(".agentstore-chat").first)

    def run(self) -> None:
        """Run all cells; wait until the last code cell is done."""
        self.menu("Run", "Run All Cells")
        last = self.page.locator(".jp-Notebook .jp-CodeCell").last
        expect(last.locator(".jp-InputPrompt").first).to_have_text(re.compile(r"\[\d+\]"), timeout=60_000)

    def menu(self, *names: str) -> None:
        """Choose an entry of a menu."""
        for name in names:
            self.page.get_by_role("menuitem", name=name, exact=True).first.click()


class Pane:
    """A chat pane in a page."""

    def __init__(self, element: Locator) -> None:
        self.element = element
        self.log = element.get_by_role("log")
        self.composer = element.get_by_role("textbox", name="Message", exact=True)
        self.messages = element.get_by_role("article")
        self.bodies = element.locator(".agentstore-body")
        self.status = element.locator(".agentstore-status")

    def of(self, by: str) -> Locator:
        """The messages by the user, the agent, …"""
        return self.element.locator(f'article[data-by="{by}"]')

    def say(self, text: str) -> None:
        """Type a message and send it."""
        self.composer.click()
        self.element.page.keyboard.type(text)
        self.element.page.keyboard.press("Enter")
