"""Clients that are killed, interrupted, divided or out of disk, and what they find when they come back."""

from __future__ import annotations

import random
import shutil
import threading
from pathlib import Path

import pytest

from jupyter_agentstore.client import connect
from jupyter_agentstore.client.discovery import sessions_folder
from jupyter_agentstore.client.replica import Replica
from tests.client.faults import facts, known, numbers, remember, reset, said
from tests.client.jupyter import TOKEN, Jupyter, until
from tests.client.proxy import Proxy
from tests.client.worker import Worker


def test_what_a_named_session_has_committed_arrives_once_however_often_it_is_killed(
    jupyter: Jupyter, proxy: Proxy, name: str, tmp_path: Path
) -> None:
    chance = random.Random(3)
    with connect(name, url=jupyter.url, token=TOKEN) as other:
        chat = other.conversation().id
        other.flush()
    url = jupyter.url.replace(str(jupyter.port), str(proxy.port))

    def start() -> Worker:
        return Worker(tmp_path / "jupyter-data", url, name, token=TOKEN, session="mine")

    worker = start()
    worker.ask("store.sql('select 1').rows()")  # reading writes the tables to disk
    worker.kill()
    count = 0
    for offline in (False, True, True, False, False, False):
        proxy.refusing = offline
        worker = start()
        for _ in range(4):
            more = chance.randrange(1, 600)
            worker.ask(f"store.commit(*{said(count, count + more, chat)}).head")
            count += more
        if not offline:
            threading.Event().wait(chance.uniform(0, 0.1))
        worker.kill()
    worker = start()
    assert worker.ask("store.flush(60) or store.sync.pending") == 0
    assert facts(jupyter, name) == numbers(0, count)
    assert worker.ask("store.sql('select count(*) c from \"conversationMemory\"').rows()[0]['c']") == count
    assert worker.close() == (0, "")


INTERRUPTED = """
def interrupted(count, chat, seed):
    def ring(*_):
        raise KeyboardInterrupt
    chance = random.Random(seed)
    signal.signal(signal.SIGALRM, ring)
    done = []
    for number in range(count):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 3e-3))
                store.commit(events.MemoryAdded(conversationId=chat, fact=str(number)))
                done.append(str(number))
                if number % 2:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 8e-3))
                    store.sql('select * from "conversationMemory"').arrow()  # what pyarrow makes of Ctrl-C is its own
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if not isinstance(error, KeyboardInterrupt) and 'nterrupt' not in str(error):
                raise
    return done
"""


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
def test_a_commit_that_is_interrupted_from_the_keyboard_is_whole_or_not_there(
    jupyter: Jupyter, proxy: Proxy, name: str, tmp_path: Path, offline: bool
) -> None:
    with connect(name, url=jupyter.url, token=TOKEN) as other:
        chat = other.conversation().id
        other.flush()
    url = jupyter.url.replace(str(jupyter.port), str(proxy.port))
    worker = Worker(tmp_path / "jupyter-data", url, name, token=TOKEN, session="mine")
    worker.tell(INTERRUPTED)
    if offline:
        worker.tell("store.sync.pause()")
    done = worker.ask(f"interrupted(300, {chat!r}, 11)")
    assert 0 < len(done) < 300
    if offline:
        worker.kill()  # what was on its way to the disk must be readable, too
        worker = Worker(tmp_path / "jupyter-data", url, name, token=TOKEN, session="mine")
    assert worker.ask("store.flush(60) or store.sync.pending") == 0
    there = facts(jupyter, name)
    assert len(set(there)) == len(there)
    assert set(there) >= set(done)
    seen = "[row['fact'] for row in store.sql('select fact from \"conversationMemory\"').rows()]"
    assert sorted(worker.ask(seen)) == sorted(there)
    assert worker.close()[0] == 0


CONNECTING = """
def connecting(count, seed, *args, **options):
    def ring(*_):
        raise KeyboardInterrupt
    chance = random.Random(seed)
    signal.signal(signal.SIGALRM, ring)
    interrupted = 0
    for _ in range(count):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0, 0.15))
                one = connect(*args, session='mine', **options)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            one.close()
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt) and 'nterrupt' not in str(error):
                raise
            interrupted += 1
    connect(*args, session='mine', **options).close()
    return interrupted
"""


def test_connecting_that_is_interrupted_from_the_keyboard_leaves_nothing(
    jupyter: Jupyter, name: str, tmp_path: Path
) -> None:
    worker = Worker(tmp_path / "jupyter-data", jupyter.url, name, token=TOKEN)
    worker.tell(CONNECTING)
    assert worker.ask(f"connecting(40, 2, {name!r}, url={jupyter.url!r}, token={TOKEN!r})") > 0
    worker.tell("names = sorted(thread.name for thread in threading.enumerate())")
    assert worker.ask("[name for name in names if name.startswith('agentstore-s')]") == ["agentstore-sync"]
    assert worker.close()[0] == 0


def test_a_full_disk_refuses_commits_and_nothing_else(
    jupyter: Jupyter, proxy: Proxy, name: str, tmp_path: Path
) -> None:
    with connect(name, url=jupyter.url, token=TOKEN) as other:
        chat = other.conversation().id
        other.flush()
        worker = Worker(tmp_path / "jupyter-data", jupyter.url, name, token=TOKEN, session="mine")
        worker.ask(f"store.commit(*{said(0, 100, chat)}).head")
        worker.ask("store.flush()")
        worker.tell(
            "heard = []; store.watch('conversationMemory', lambda one: one.before or heard.append(one.after['fact']))"
        )
        worker.tell("limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, -1))")
        (journal,) = (tmp_path / "jupyter-data").glob("agentstore-sessions/*/mine/session.jsonl")
        worker.tell(f"limit({journal.stat().st_size + 100})")
        worker.tell("problem = None")
        worker.tell(
            f"try: store.commit(*{said(100, 200, chat)})\nexcept OSError as error: problem = str(error)"
        )
        assert worker.ask("problem")
        assert worker.ask("store.sync.pending") == 0
        remember(other, chat, "of another")
        until(lambda: worker.ask("heard") == ["of another"])
        worker.tell("limit(-1)")
        worker.ask(f"store.commit(*{said(200, 300, chat)}).head")
        worker.ask("store.flush()")
        assert facts(jupyter, name) == [*numbers(0, 100), "of another", *numbers(200, 300)]
        worker.kill()
    worker = Worker(tmp_path / "jupyter-data", jupyter.url, name, token=TOKEN, session="mine")
    assert worker.ask("store.sync.pending") == 0
    assert worker.close() == (0, "")


WRITING = """
def writing(count, folder, seed):
    from pathlib import Path
    from jupyter_agentstore.client.replica import Replica
    from jupyter_agentstore.core.events import Event, wire
    def ring(*_):
        raise KeyboardInterrupt
    chance = random.Random(seed)
    signal.signal(signal.SIGALRM, ring)
    replica = Replica(Path(folder))
    replica.begin('log')
    interrupted = 0
    for seq in range(1, count + 1):
        args = json.dumps({'id': str(seq), 'conversationId': 'c', 'fact': str(seq)})
        replica.confirm([Event(seq, seq, 'user', wire('v1.MemoryAdded', args, seq, 'c', 's'))], 0, (), False)
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 5e-3))
                replica.flush()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            interrupted += 1
    asked = 'select (select count(*) from events), (select count(*) from "conversationMemory")'
    found = list(replica.query(asked).to_pylist()[0].values())
    replica.close()
    return [interrupted > 0, *found]
"""


def test_tables_that_are_written_when_ctrl_c_comes_are_whole(
    jupyter: Jupyter, name: str, tmp_path: Path
) -> None:
    worker = Worker(tmp_path / "jupyter-data", jupyter.url, name, token=TOKEN)
    worker.tell(WRITING)
    assert worker.ask(f"writing(200, {str(tmp_path / 'tables')!r}, 4)") == [True, 200, 200]
    worker.kill()


# ---- processes that end, or divide


def test_a_process_that_ends_sends_what_is_pending(jupyter: Jupyter, name: str, tmp_path: Path) -> None:
    worker = Worker(tmp_path / "jupyter-data", jupyter.url, name, token=TOKEN)
    chat = worker.ask("store.conversation().id")
    worker.tell(f"store.commit(*{said(0, 3_000, chat)})")
    assert worker.close() == (0, "")
    assert facts(jupyter, name) == numbers(0, 3_000)


def test_a_process_ends_without_its_server_and_says_what_is_lost(
    jupyter: Jupyter, proxy: Proxy, name: str, tmp_path: Path
) -> None:
    url = jupyter.url.replace(str(jupyter.port), str(proxy.port))
    worker = Worker(tmp_path / "jupyter-data", url, name, token=TOKEN)
    worker.ask("store.flush()")
    proxy.refusing = True
    proxy.break_all()
    worker.tell("store.conversation()")
    code, errors = worker.close()
    assert code == 0
    assert errors.startswith(
        "agentstore: 1 event did not reach the server within 5 s. There is no connection: "
    )
    assert errors.endswith(". They are lost.\n")
    assert errors.count("\n") == 1


DIVIDED = """
def divided(times):
    ending = threading.Event()
    def work():
        while not ending.is_set():
            store.conversation()
    thread = threading.Thread(target=work)
    thread.start()
    codes = []
    for _ in range(times):
        child = os.fork()
        if not child:
            signal.alarm(20)
            refused = 0
            for use in (store.conversation, store.flush, lambda: store.sql('select 1').rows(), store.close):
                try:
                    use()
                except Exception as error:
                    refused += type(error).__name__ == 'StoreClosed'
            store.sync.status == 'closed' or os._exit(50)
            sys.exit(refused)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    ending.set()
    thread.join()
    return codes
"""


def test_a_forked_child_is_told_to_connect_anew_and_ends(jupyter: Jupyter, name: str, tmp_path: Path) -> None:
    worker = Worker(tmp_path / "jupyter-data", jupyter.url, name, token=TOKEN)
    worker.tell("import warnings; warnings.simplefilter('ignore')")
    worker.tell(DIVIDED)
    assert worker.ask("divided(5)") == [3] * 5
    worker.ask("store.flush()")
    assert worker.close() == (0, "")


# ---- sessions on disk


@pytest.mark.parametrize("tables", ["as they were", "gone", "of the new log already"])
def test_a_named_session_whose_store_was_reset_while_it_was_closed_goes_on(
    jupyter: Jupyter, name: str, tables: str
) -> None:
    """Tables may be gone after an update of the package; they are ahead of the journal after a crash."""
    with connect(name, url=jupyter.url, token=TOKEN, session="mine") as store:
        old = store.conversation().id
        store.flush()
        store.sync.pause()
        remember(store, old, "of what is gone")
        new = store.conversation(title="new").id
        remember(store, new, "of what comes along")
        store.close(0)
    reset(jupyter, name)
    with connect(name, url=jupyter.url, token=TOKEN, replica=False) as other:
        other.conversation(title="another's")
    (folder,) = sessions_folder().glob("*/mine/tables")
    if tables == "gone":
        shutil.rmtree(folder)
    elif tables == "of the new log already":
        with jupyter.http() as http:
            answer = http.get("agentstore/events", params={"storeId": name, "limit": 1}).json()
        replica = Replica(folder)
        replica.begin(answer["backendId"])
        replica.close()
    with connect(name, url=jupyter.url, token=TOKEN, session="mine") as store:
        store.flush()
        assert facts(jupyter, name) == known(store) == ["of what comes along"]
        assert [one.args["fact"] for one in store.sync.rejected] == ["of what is gone"]
    with connect(name, url=jupyter.url, token=TOKEN, session="mine") as store:
        assert store.sync.pending == 0
        assert {chat.title for chat in store.conversations} == {"another's", "new"}


def test_a_named_session_whose_tables_are_gone_gets_them_again_and_sends_what_is_pending(
    jupyter: Jupyter, name: str
) -> None:
    with connect(name, url=jupyter.url, token=TOKEN, session="mine") as store:
        chat = store.conversation().id
        remember(store, chat, "sent")
        store.flush()
        store.sync.pause()
        remember(store, chat, "pending")
        store.close(0)
    (folder,) = sessions_folder().glob("*/mine/tables")
    shutil.rmtree(folder)
    with connect(name, url=jupyter.url, token=TOKEN, session="mine") as store:
        store.flush()
        assert known(store) == ["sent", "pending"] == facts(jupyter, name)
