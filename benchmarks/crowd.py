"""Many quiet clients of the sync protocol in one process: each holds a live pull open and pings, as a browser would.

``python -m benchmarks.crowd ADDRESS TOKEN``, then lines of JSON as for ``kernel``: ``connect`` answers once so many
more are connected and have been told the store's state.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

PING_SECONDS = 10.0
_AT_ONCE = 50
_PING = json.dumps({"_tag": "Ping"})


class Crowd:
    """Clients of one server.

    Args:
        address: of the websocket, without a query.
        token: the server's.
    """

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._headers = {"Authorization": f"token {token}"}
        self._members: list[asyncio.Task[None]] = []

    async def connect(self, count: int, store: str) -> int:
        """So many more, of that store; how many there are now."""
        gate = asyncio.Semaphore(_AT_ONCE)
        ready = []
        for _ in range(count):
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._members.append(asyncio.create_task(self._member(store, told, gate)))
            ready.append(told)
        await asyncio.gather(*ready)
        return len(self._members)

    async def leave(self) -> None:
        """All of them."""
        for member in self._members:
            member.cancel()
        await asyncio.gather(*self._members, return_exceptions=True)
        self._members.clear()

    async def _member(self, store: str, told: asyncio.Future[None], gate: asyncio.Semaphore) -> None:
        address = f"{self._address}?storeId={store}&transport=ws"
        try:
            async with gate:
                socket = await connect(
                    address,
                    additional_headers=self._headers,
                    compression=None,
                    ping_interval=None,
                    open_timeout=60,
                )
                await socket.send(_PING)
                await socket.send(_pull(store))
                while json.loads(await socket.recv())["_tag"] != "Chunk":
                    pass
                await socket.send(_ack())
            told.set_result(None)
            async with socket, asyncio.TaskGroup() as group:
                group.create_task(_ping(socket))
                async for frame in socket:
                    if '"Chunk"' in str(frame)[:40]:
                        await socket.send(_ack())
        except Exception as error:
            if told.done():
                raise
            told.set_exception(error)


def _pull(store: str) -> str:
    payload: dict[str, Any] = {"storeId": store, "live": True, "cursor": {"_tag": "None"}}
    return json.dumps(
        {"_tag": "Request", "id": "1", "tag": "SyncWsRpc.Pull", "payload": payload, "headers": []}
    )


def _ack() -> str:
    return json.dumps({"_tag": "Ack", "requestId": "1"})


async def _ping(socket: ClientConnection) -> None:
    while True:
        await asyncio.sleep(PING_SECONDS)
        await socket.send(_PING)


async def obey() -> None:
    """Carry out what comes on standard input."""
    loop = asyncio.get_running_loop()
    crowd = Crowd(*sys.argv[1:])
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = {"value": await getattr(crowd, command.pop("do"))(**command)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if most < 65_536 else 65_536, most))
    asyncio.run(obey())
