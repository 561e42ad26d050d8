"""The notebooks run from top to bottom against a real server, and print what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.client.jupyter import Jupyter

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
ALL = sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    server = Jupyter(tmp_path_factory.mktemp("jupyter")).start()
    yield server
    server.stop()


@pytest.fixture
def as_kernel_of(jupyter: Jupyter, monkeypatch: pytest.MonkeyPatch) -> Jupyter:
    """Kernels that are started here find what the server's own would."""
    for name in [name for name in os.environ if name.startswith("JUPYTER")]:
        monkeypatch.delenv(name)
    for name, value in jupyter.env.items():
        if name.startswith(("JUPYTER", "IPYTHON")):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("JUPYTER_AGENTSTORE_SERVER", str(jupyter.file))
    return jupyter


def executed(path: Path) -> Any:
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=120, kernel_name="python3", resources={}).execute()
    return book


def text(book: Any) -> str:
    """All that the cells show as text, in order."""
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join(shown)


def types(book: Any) -> set[str]:
    return {t for cell in book.cells for output in cell.get("outputs", ()) for t in output.get("data", {})}


def test_the_quick_start_chats_and_asks(as_kernel_of: Jupyter) -> None:
    book = executed(NOTEBOOKS / "01_quickstart.ipynb")
    shown = text(book)
    assert "connected at http://127.0.0.1" in shown
    assert "embedded" not in shown
    assert "(Responding to: “A mocha with oat milk, please”)" in shown
    assert "Prefers oat milk to cow's milk" in shown
    assert "application/vnd.jupyter.widget-view+json" in types(book)
    assert "v1.MessageAdded" in shown
    assert "agent:simulated" in shown
    assert as_kernel_of.token not in nbformat.writes(book)
    counts = [
        int(line.split()[-1])
        for line in shown.splitlines()
        if line.startswith("0 ") and line.split()[-1].isdigit()
    ]
    assert counts[0] == 4
    assert counts[-1] > 4  # changes that come together may be told together


def test_the_history_is_loaded_once_and_asked(as_kernel_of: Jupyter) -> None:
    path = NOTEBOOKS / "02_history.ipynb"
    book = executed(path)
    shown = text(book)
    assert "710 conversations, 2,640 messages" in shown
    assert "Auto template 1 order a coffee drink no mods" in shown
    assert "latte" in shown
    assert "archived" in shown
    assert "image/png" in types(book)
    assert "710 conversations, 2,640 messages" in text(executed(path))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_data_is_shown_with_its_attribution() -> None:
    said = (NOTEBOOKS / "02_history.ipynb").read_text()
    for words in ("Taskmaster-4", "Bill Byrne", "Saravanan Ganesh", "Google LLC", "CC BY 4.0", "2403.10704"):
        assert words in said


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_notebook_runs_without_any_server(path: Path, tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY_"))}
    env |= {
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", str(path), f"--output={tmp_path / 'done.ipynb'}"],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "embedded in this process" in text(nbformat.read(tmp_path / "done.ipynb", as_version=4))
