"""How a server tells its own user's programs where it is: by a file in Jupyter's runtime folder that kernels inherit.

Jupyter's own file holds the token, but a server with a password has none. This one holds a secret that is as good as
logging in; only the user can read it.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from jupyter_core.paths import secure_write

VARIABLE = "JUPYTER_AGENTSTORE_SERVER"
"""The environment variable that tells kernels where the file is."""

SCHEME = "agentstore"
"""The scheme of an ``Authorization`` header that shows the secret."""


class Announcement:
    """The file of one server, there from :meth:`publish` to :meth:`withdraw`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"agentstore-{os.getpid()}.json"
        self._text = ""

    def publish(self, **what: Any) -> None:
        """Write the file, readable by the user alone, and name it in the environment of kernels to come.

        Raises:
            OSError: it cannot be written.
        """
        self._text = json.dumps({"pid": os.getpid(), **what}, indent=2)
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with secure_write(str(self.path)) as file:
            file.write(self._text)
        os.environ[VARIABLE] = str(self.path)

    def withdraw(self) -> None:
        """Remove what was published. Again is harmless."""
        if os.environ.get(VARIABLE) == str(self.path):
            del os.environ[VARIABLE]
        # Where many machines share the folder, another server may have our number and the file be its by now.
        with contextlib.suppress(OSError):
            if self._text and self.path.read_text() == self._text:
                self.path.unlink()
        self._text = ""
