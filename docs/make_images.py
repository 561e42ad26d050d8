"""Takes the pictures in ``docs/images``: the quick start's pane, in a real JupyterLab, light and dark.

``make docs`` runs it. The pane is the one that the first cells of ``notebooks/01_quickstart.ipynb`` show; a message
is written in it, and below it stands the DataFrame of the cell that follows.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, Locator, expect

from tests.browser.lab import Lab, Notebook, chromium_at, jupyterlab

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
THEMES = {"pane.png": "JupyterLab Light", "pane-dark.png": "JupyterLab Dark"}
CELLS = 8  # of the quick start: up to the first DataFrame


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not on the PATH; `make browser` installs it")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, theme in THEMES.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            jupyterlab(Path(folder)) as lab,
            chromium_at(chromium) as browser,
        ):
            lab.set("apputils-extension:themes", {"theme": theme})
            picture(lab, browser, IMAGES / name)
        print(IMAGES / name)


def picture(lab: Lab, browser: Browser, to: Path) -> None:
    """Run the quick start's beginning, write in its pane, and take the cells from the pane on."""
    book = nbformat.read(ROOT / "notebooks" / "01_quickstart.ipynb", as_version=4)
    book.cells = book.cells[:CELLS]
    nbformat.write(book, lab.server.folder / "root" / "quickstart.ipynb")
    context = browser.new_context(viewport={"width": 960, "height": 1500}, device_scale_factor=2)
    page = context.new_page()
    notebook = lab.open(page, "quickstart.ipynb")
    page.keyboard.press("Control+b")  # no file browser
    notebook.run()
    pane = notebook.pane
    expect(pane.of("agent")).to_have_count(1, timeout=60_000)
    pane.say("A large one, and **less sugar**")
    expect(pane.of("agent")).to_have_count(2, timeout=60_000)
    notebook.cells.last.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")  # the DataFrame has it now, too
    expect(notebook.cells.last.locator("tbody tr")).to_have_count(4, timeout=60_000)
    expect(pane.of("agent")).to_have_count(2, timeout=60_000)
    pane.element.evaluate("pane => { pane.style.height = '480px'; }")
    notebook.cells.first.click()  # which is not in the picture, so that none there is selected
    page.mouse.move(0, 0)
    crop(shown(notebook), to)
    context.close()


def shown(notebook: Notebook) -> list[Locator]:
    """The first and the last element to be in the picture."""
    return [notebook.cells.filter(has=notebook.page.locator(".agentstore-chat")), notebook.cells.last]


def crop(parts: list[Locator], to: Path) -> None:
    """A picture of everything from the first part to the last."""
    boxes = [box for part in parts if (box := part.bounding_box()) is not None]
    left, top = min(box["x"] for box in boxes), min(box["y"] for box in boxes)
    right = max(box["x"] + box["width"] for box in boxes)
    bottom = max(box["y"] + box["height"] for box in boxes)
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    parts[0].page.screenshot(path=to, clip=clip)


if __name__ == "__main__":
    main()
