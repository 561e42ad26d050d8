"""What holds of the project as a whole: what an import costs, what a wheel holds, what may not be committed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jupyter_agentstore._version import __version__

ROOT = Path(__file__).parents[1]
SLOW = ["anywidget", "duckdb", "ipywidgets", "pandas", "pyarrow"]


def build(folder: Path, target: str, out: Path, path: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel or an sdist of a folder with the given PATH."""
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(out)],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def built(target: str, out: Path) -> Path:
    """The wheel or sdist of this project."""
    done = build(ROOT, target, out, os.environ["PATH"])
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = out.iterdir()
    return archive


def test_importing_the_package_loads_none_of_the_slow_libraries() -> None:
    code = f"import sys, jupyter_agentstore; print([m for m in {SLOW!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_wheel_enables_the_extension_and_holds_front_end_data_and_licence(tmp_path: Path) -> None:
    with zipfile.ZipFile(built("wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
        prefix = f"jupyter_agentstore-{__version__}"
        config = f"{prefix}.data/data/etc/jupyter/jupyter_server_config.d/jupyter_agentstore.json"
        enabled = json.loads(wheel.read(config))
        entries = wheel.read(f"{prefix}.dist-info/entry_points.txt").decode()
    assert enabled == {"ServerApp": {"jpserver_extensions": {"jupyter_agentstore": True}}}
    assert "jupyter-agentstore = jupyter_agentstore.server.cli:main" in entries
    assert any(n.startswith("jupyter_agentstore/widgets/static/") and n.endswith(".js") for n in names)
    assert f"{prefix}.dist-info/licenses/LICENSE" in names
    data = {"README.md", "taskmaster4.jsonl.gz"}
    assert {f"jupyter_agentstore/data/{name}" for name in data} | {"jupyter_agentstore/py.typed"} <= names
    assert not [n for n in names if n.startswith(("tests/", "labextension/"))]


def test_an_sdist_holds_the_built_front_end_and_its_sources(tmp_path: Path) -> None:
    with tarfile.open(built("sdist", tmp_path)) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert any(n.startswith("jupyter_agentstore/widgets/static/") and n.endswith(".js") for n in names)
    assert {"labextension/package-lock.json", "hatch_build.py", "LICENSE", "CHANGELOG.md"} <= names
    assert not [n for n in names if "node_modules" in n]


def test_a_build_with_neither_front_end_nor_npm_says_what_to_do(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("jupyter_agentstore", "jupyter-config"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("static", "__pycache__")
        )
    done = build(tmp_path, "wheel", tmp_path / "dist", path="")
    assert done.returncode != 0
    assert "Install Node.js 20 or newer" in done.stderr + done.stdout
    assert not list(tmp_path.glob("dist/*"))


LOCKS = [ROOT / "labextension" / "package-lock.json", *ROOT.glob("tests/*/package-lock.json")]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.parent.name)
def test_a_lock_file_pins_contents_and_names_no_registry(lock: Path) -> None:
    packages = json.loads(lock.read_text())["packages"]
    installed = {name: p for name, p in packages.items() if "node_modules/" in name and not p.get("link")}
    assert not [name for name, p in installed.items() if "://" in p.get("resolved", "")]
    assert not [name for name, p in installed.items() if not p.get("integrity") and not p.get("inBundle")]


def test_the_shipped_dialogs_are_all_there_and_well_formed(dialogs: list[dict[str, Any]]) -> None:
    utterances = [utterance for dialog in dialogs for utterance in dialog["utterances"]]
    assert len({dialog["conversation_id"] for dialog in dialogs}) == 710
    assert len(utterances) == 2640
    assert {utterance["speaker"] for utterance in utterances} == {"user", "assistant"}
    assert all(utterance["text"] for utterance in utterances)
