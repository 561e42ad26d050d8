"""A kernel that a real server started: what its cells show and print."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.jupyter import Jupyter, Kernel


@pytest.fixture(scope="module")
def kernel(jupyter: Jupyter) -> Iterator[Kernel]:
    with jupyter.kernel() as kernel:
        kernel.run("import jupyter_agentstore as agentstore\nstore = agentstore.connect('in-a-kernel')")
        yield kernel


def test_it_finds_its_server_by_itself(jupyter: Jupyter, kernel: Kernel) -> None:
    (shown,) = [o for o in kernel.run("store") if o["type"] == "execute_result"]
    assert shown["data"]["text/plain"] == f"<Store 'in-a-kernel', connected at {jupyter.url}>"
    assert jupyter.token not in str(shown)


def test_the_readme_works_in_cells(kernel: Kernel) -> None:
    outputs = kernel.run("""
chat = store.conversation(title="Coffee")
chat.send("A mocha with oat milk, please").reply()
""")
    (shown,) = [o for o in outputs if o["type"] == "execute_result"]
    assert set(shown["data"]) == {"text/plain", "text/html"}
    assert "oat milk" in shown["data"]["text/html"]
    assert "2" in kernel.printed("""
store.commit(agentstore.events.MemoryAdded(conversationId=chat.id, fact="Prefers oat milk"))
print(len(chat.messages), len(store.df("messages")))
print(store.sql("select role, count(*) from messages group by all").df())
""")


def test_a_subscription_prints_from_its_own_thread(kernel: Kernel) -> None:
    said = kernel.printed("""
import time
subscription = store.subscribe("select count(*) as n from conversations", lambda frame: print("n =", frame["n"][0]))
before = store.status()["conversationCount"]
store.conversation()
while subscription._last["n"][0] == before: time.sleep(0.01)
time.sleep(0.1)
subscription.close()
""")
    numbers = [int(line.split()[-1]) for line in said.splitlines() if line.startswith("n =")]
    assert numbers == [numbers[0], numbers[0] + 1]


def test_a_waiting_cell_can_be_interrupted(jupyter: Jupyter, kernel: Kernel) -> None:
    said = kernel.printed("""
import _thread, threading
chat.pause()
sent = chat.send("Nobody answers this")
threading.Timer(0.5, _thread.interrupt_main).start()
try:
    sent.reply(timeout=60)
except KeyboardInterrupt:
    print("interrupted")
chat.resume()
""")
    assert "interrupted" in said
