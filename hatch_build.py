"""Builds the panes' front end where it is missing, so that every wheel, sdist and editable install has it.

What belongs here: only that. ``make setup`` builds it before it installs the package, and knows when it is stale.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class FrontEnd(BuildHookInterface):
    """Runs ``npm ci`` and ``npm run build`` in ``labextension/`` unless the built files are there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        root = Path(self.root)
        static = root / "jupyter_agentstore" / "widgets" / "static"
        if any(static.glob("*.js")):
            return
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError(
                f"The front end is not built ({static} holds no .js file) and npm is not on the PATH. "
                "Install Node.js 20 or newer, or install from a wheel, which has it."
            )
        for command in (["ci"], ["run", "build"]):
            self.app.display_info(f"labextension: npm {' '.join(command)}")
            done = subprocess.run([npm, *command], cwd=root / "labextension", stdin=subprocess.DEVNULL)
            if done.returncode:
                raise RuntimeError(
                    f"npm {' '.join(command)} failed in labextension/ (exit code {done.returncode})."
                )
        if not any(static.glob("*.js")):
            raise RuntimeError(f"npm run build succeeded but left no .js file in {static}.")
