"""Who has a store's folder, and what others are told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jupyter_agentstore.core.errors import NotFound, StoreLocked
from jupyter_agentstore.eventlog import Lock, network_filesystem, unclean
from jupyter_agentstore.eventlog.lock import owner_of

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def made(folder: Path) -> None:
    folder.mkdir()


def test_the_lock_says_who_has_the_store(folder: Path) -> None:
    lock = Lock.take(folder, {"url": "http://localhost:8888/"})
    said = json.loads((folder / "lock").read_text())
    assert said == {"pid": os.getpid(), "host": socket.gethostname(), "url": "http://localhost:8888/"}
    lock.release()


def test_a_second_opener_in_the_same_process_is_refused(folder: Path) -> None:
    lock = Lock.take(folder)
    with pytest.raises(StoreLocked, match=f"this process already.*{os.getpid()}"):
        Lock.take(folder)
    lock.release()
    Lock.take(folder).release()


def test_a_second_process_is_told_process_host_and_url(folder: Path, start: Start) -> None:
    process = start("hold")
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    with pytest.raises(StoreLocked) as refused:
        Lock.take(folder)
    for said in (str(process.pid), socket.gethostname(), "http://localhost:8888/hub/", str(folder)):
        assert said in refused.value.message
    owner = {"pid": process.pid, "host": socket.gethostname(), "url": "http://localhost:8888/hub/"}
    assert refused.value.owner == owner
    assert not unclean(folder)
    process.communicate("")
    Lock.take(folder).release()


def test_a_lock_held_here_is_held_against_other_processes(folder: Path, start: Start) -> None:
    with Lock.take(folder):
        said = start("take").communicate()[0]
        assert f"open in process {os.getpid()} on " in said
    assert start("take").communicate()[0] == "taken\n"


def test_the_kernel_frees_the_lock_of_a_process_that_was_killed(folder: Path, start: Start) -> None:
    process = start("hold")
    assert process.stdout
    process.stdout.readline()
    process.kill()
    process.communicate()
    assert unclean(folder)
    lock = Lock.take(folder)
    assert lock.unclean
    lock.release()
    assert not unclean(folder)


def test_a_store_closed_cleanly_or_never_opened_is_not_unclean(folder: Path, tmp_path: Path) -> None:
    assert not unclean(folder)
    assert not unclean(tmp_path / "nowhere")
    lock = Lock.take(folder)
    assert not lock.unclean
    lock.release()
    assert (folder / "lock").read_bytes() == b""
    assert not unclean(folder)


def test_a_store_closed_with_work_waiting_is_unclean_until_it_is_closed_without(folder: Path) -> None:
    Lock.take(folder).release(work_waiting=True)
    assert unclean(folder)
    with Lock.take(folder) as lock:
        assert lock.unclean
    assert unclean(folder)  # those who only look leave the note as it was
    Lock.take(folder).release()
    assert not unclean(folder)


def test_releasing_twice_does_not_touch_the_next_ones_lock(folder: Path) -> None:
    lock = Lock.take(folder)
    lock.release()
    other = Lock.take(folder)
    lock.release()
    with pytest.raises(StoreLocked):
        Lock.take(folder)
    other.release()


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Lock.take(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_looking_whether_a_store_is_unclean_keeps_nobody_out(folder: Path) -> None:
    Lock.take(folder).release(work_waiting=True)
    with ThreadPoolExecutor(1) as pool:
        looks = pool.submit(lambda: [unclean(folder) for _ in range(2_000)])
        for _ in range(30):
            Lock.take(folder).release(work_waiting=True)
        assert len(looks.result()) == 2_000


def test_of_many_openers_one_has_it(folder: Path) -> None:
    def take(_: int) -> Lock | None:
        try:
            return Lock.take(folder)
        except StoreLocked:
            return None

    with ThreadPoolExecutor(8) as pool:
        locks = [lock for lock in pool.map(take, range(8)) if lock]
    assert len(locks) == 1
    locks[0].release()


def test_a_forked_child_does_not_keep_the_lock(folder: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from jupyter_agentstore.eventlog import Lock\n"
        "lock = Lock.take(Path(sys.argv[1]))\n"
        "if os.fork():\n"
        "    os._exit(1)\n"
        "print('forked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "forked\n"
    process.wait()
    assert unclean(folder)
    Lock.take(folder).release()
    process.communicate("")


@pytest.mark.parametrize("content", [b"", b"no JSON", b"[1]", b'"text"', b"{}"])
def test_a_lock_file_that_says_nothing_is_no_obstacle(folder: Path, content: bytes) -> None:
    (folder / "lock").write_bytes(content)
    assert owner_of(folder) == {}
    lock = Lock.take(folder)
    (folder / "lock").write_bytes(content)
    with pytest.raises(StoreLocked, match="process unknown on an unknown host"):
        Lock.take(folder)
    lock.release()


MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:40 / /home rw,relatime shared:2 master:3 - nfs4 server:/home rw
31 30 0:41 / /home/local rw - tmpfs tmpfs rw
32 27 0:42 / /mnt/with\040space rw - cifs //server/share rw
33 27 0:43 / /mnt/over rw - ext4 /dev/vdb rw
34 33 0:44 / /mnt/over rw - fuse.sshfs me@there: rw
35 27 0:45 / /mnt/win rw - 9p drvfs rw
36 27 0:46 / /mnt/ntfs rw - fuseblk /dev/vdc rw
37 27 0:47 / /mnt/layers rw - fuse.fuse-overlayfs x rw
not a mount
"""


@pytest.mark.parametrize(
    ("path", "type"),
    [
        ("/var/lib", None),
        ("/homes/ada", None),
        ("/home", "nfs4"),
        ("/home/ada/.local/share/jupyter/agentstore", "nfs4"),
        ("/home/local/x", None),
        ("/mnt/with space/x", "cifs"),
        ("/mnt/over/x", "fuse.sshfs"),
        ("/mnt/win/x", "9p"),
        ("/mnt/ntfs/x", None),
        ("/mnt/layers/x", None),
        ("/home/../var", None),
    ],
)
def test_a_network_file_system_is_named(tmp_path: Path, path: str, type: str | None) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert network_filesystem(Path(path), mounts) == type


def test_without_a_list_of_mounts_nothing_is_known(tmp_path: Path) -> None:
    assert network_filesystem(tmp_path, tmp_path / "nowhere") is None


def test_without_flock_the_package_can_be_imported_and_taking_a_lock_says_why_not() -> None:
    code = (
        "import sys; sys.platform = 'win32'; sys.modules['fcntl'] = None\n"
        "from pathlib import Path\n"
        "from jupyter_agentstore.eventlog import Lock, unclean\n"
        "print(unclean(Path('.')))\n"
        "Lock.take(Path('.'))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"
    assert "OSError: Stores on disk need flock, which Windows has not" in done.stderr
