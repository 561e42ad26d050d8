"""Real conversations that come with the package: what the notebooks, the benchmarks and the tests load.

What belongs here: the data, where it is from (``README.md``, whose attribution goes wherever a copy goes), and the
reading of it. Nothing here knows of stores.
"""

from __future__ import annotations

import gzip
import json
from importlib.resources import files
from typing import Any

FILE = "taskmaster4.jsonl.gz"


def dialogs() -> list[dict[str, Any]]:
    """The 710 dialogs of people who order coffee, in the file's order, read anew at each call.

    Returns:
        One dict a dialog: ``conversation_id`` (str), ``scenario`` (str) and ``utterances``, a list of dicts of
        ``speaker`` (``"user"`` or ``"assistant"``) and ``text`` (str).
    """
    packed = files(__name__).joinpath(FILE).read_bytes()
    return [json.loads(line) for line in gzip.decompress(packed).decode().splitlines()]
