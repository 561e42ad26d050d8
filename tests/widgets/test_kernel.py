"""The pane in a real kernel, over its comm, as JupyterLab talks to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.jupyter import Jupyter, Kernel

VIEW = "application/vnd.jupyter.widget-view+json"


class Front:
    """A front end: the model's state as the kernel tells it."""

    def __init__(self, kernel: Kernel, outputs: list[dict[str, Any]]) -> None:
        self.kernel = kernel
        self.state: dict[str, Any] = {}
        self.custom: list[dict[str, Any]] = []
        self.model = ""
        for output in outputs:
            if output["type"] in ("execute_result", "display_data") and VIEW in output["data"]:
                self.model = output["data"][VIEW]["model_id"]
                self.shown = output["data"]
        for output in outputs:
            self.take(output["type"], output)

    def take(self, kind: str, content: dict[str, Any]) -> None:
        if content.get("comm_id") != self.model or not kind.startswith("comm_"):
            return
        data = content["data"]
        if kind == "comm_open" or data.get("method") == "update":
            self.state.update(data["state"])
        elif data.get("method") == "custom":
            self.custom.append(data["content"])

    def send(self, **content: Any) -> None:
        message = self.kernel.client.session.msg(
            "comm_msg", {"comm_id": self.model, "data": {"method": "custom", "content": content}}
        )
        self.kernel.client.shell_channel.send(message)

    def wait(self, condition: Any) -> None:
        if condition():
            return
        for message in self.kernel.messages():
            self.take(message["msg_type"], message["content"])
            if condition():
                return


@pytest.fixture
def kernel(jupyter: Jupyter) -> Iterator[Kernel]:
    with jupyter.kernel() as kernel:
        kernel.run("import jupyter_agentstore as agentstore\nstore = agentstore.connect('pane-in-a-kernel')")
        yield kernel


def test_a_conversation_is_held_in_the_pane(kernel: Kernel) -> None:
    front = Front(kernel, kernel.run("chat = store.conversation(title='Coffee')\nchat"))
    assert front.state["title"] == "Coffee"
    assert "Coffee" in front.shown["text/plain"]
    assert "export" in front.state["_esm"]
    front.wait(lambda: front.state["status"] == "connected")
    front.send(type="send", id="m1", content="A mocha, please")
    front.wait(lambda: {"type": "sent", "id": "m1"} in front.custom)
    front.wait(lambda: len(front.state["messages"]) == 2)
    front.wait(lambda: not front.state["thinking"])
    assert [m["agent"] for m in front.state["messages"]] == [False, True]
    assert "A mocha, please" in kernel.printed("print(chat.messages['content'].tolist())")


def test_the_pane_goes_on_while_a_cell_runs(kernel: Kernel) -> None:
    front = Front(kernel, kernel.run("chat = store.conversation(title='Busy')\nchat"))
    front.wait(lambda: front.state["status"] == "connected")
    outputs = kernel.run("reply = chat.send('From the cell').reply()\nimport time; time.sleep(0.5)")
    for output in outputs:
        front.take(output["type"], output)
    assert front.state["messages"][0]["content"] == "From the cell"
    front.wait(lambda: len(front.state["messages"]) == 2)


def test_what_is_shown_again_is_up_to_date(kernel: Kernel) -> None:
    kernel.run("chat = store.conversation(title='Again')\nchat.pause()\npane = agentstore.ChatPane(chat)")
    front = Front(kernel, kernel.run("chat.send('one more')\npane"))
    assert "one more" in front.shown["text/plain"]
    assert "one more" in front.shown["text/html"]
