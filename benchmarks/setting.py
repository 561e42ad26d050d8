"""What a measurement is given: its scale, its folder, its progress bar; and the odd helper that most of them need."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")


@dataclass
class Setting:
    """How to measure.

    Attributes:
        folder: a temporary folder, removed at the end.
        quick: scale down to what takes seconds.
        rounds: of the crash test; None for its own number.
    """

    folder: Path
    quick: bool = False
    rounds: int | None = None
    _folders: int = field(default=0, init=False)

    def scale(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def new_folder(self, name: str) -> Path:
        """An empty folder that nobody else has."""
        self._folders += 1
        folder = self.folder / f"{self._folders:03d}-{name}"
        folder.mkdir(parents=True)
        return folder


def progress(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """The items, with a progress bar on the terminal meanwhile."""
    from tqdm import tqdm

    yield from tqdm(
        items, desc=label, total=total, leave=False, file=sys.stderr, disable=not sys.stderr.isatty()
    )


class Stopwatch:
    """Seconds that a block took."""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection of earlier measurements within this one."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def resident(pid: int | None = None) -> float:
    """Resident memory of a process in megabytes (10**6 bytes)."""
    pid = pid or os.getpid()
    statm = Path(f"/proc/{pid}/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return int(said.stdout) * 1024 / 1e6


def fsyncs(file: Path, times: int) -> list[float]:
    """Seconds that a small write and its fsync take, each; what a durable commit cannot do without."""
    taken = []
    with file.open("ab", buffering=0) as out:
        for _ in range(times):
            time.sleep(0.002)
            began = time.perf_counter()
            out.write(bytes(512))
            os.fsync(out.fileno())
            taken.append(time.perf_counter() - began)
    return taken


def drop_from_page_cache(folder: Path) -> None:
    """Ask the system to forget the files of a folder, so that reading them is reading the disk."""
    if not hasattr(os, "posix_fadvise"):
        return
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
