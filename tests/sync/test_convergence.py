"""Whatever the network and crashes do: no event is lost or doubled, and all end with one log and the same tables."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.duck import Instance, alias_of
from jupyter_agentstore.state.state import State
from jupyter_agentstore.store import Registry
from tests.state import support
from tests.sync.network import Crash, Host, World, content_of

CONVERSATION, MESSAGE, UPDATE = "v1.ConversationCreated", "v1.MessageAdded", "v1.ConversationUpdated"

hosts = st.integers(0, 4)
sizes = st.sampled_from([1, 1, 2, 3, 150])  # one is more than a page
budgets = st.integers(0, 5)
lags = st.sampled_from([0, 0, 1, 2, 1_000])
places = st.integers(0, 2)


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    made = Registry(None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    made = Instance(threads=1)
    yield made
    made.close()


def saying(kind: int, place: int, number: int) -> tuple[str, str]:
    """An event: some collide with those of others, and some are the same each time."""
    if kind == 0:
        name, args = CONVERSATION, {"id": f"c{place}", "userId": "u", "title": f"t{number}"}
    elif kind == 1:
        name, args = UPDATE, {"id": f"c{place}", "updatedAt": 1_700_000_000_000 + number, "status": "paused"}
    elif kind == 2:
        name, args = (
            MESSAGE,
            {"id": f"same{place}", "conversationId": f"c{place}", "role": "user", "content": "x"},
        )
    else:
        name, args = (
            MESSAGE,
            {"id": f"m{number}", "conversationId": f"c{place}", "role": "user", "content": "half \ud83d"},
        )
    return name, json.dumps(args)


class Machine(RuleBasedStateMachine):
    """Sessions, a server, and everything that can come between them."""

    def __init__(self, registry: Registry, instance: Instance) -> None:
        super().__init__()
        self.world = World(registry, instance)
        self.number = 0

    @initialize(
        kinds=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=2, max_size=5),
        reader=st.booleans(),
        seed=st.integers(0, 10_000),
        length=st.sampled_from([0, 60, 200]),
    )
    def begin(self, kinds: list[tuple[bool, bool, bool]], reader: bool, seed: int, length: int) -> None:
        for place, (named, tables_first, careless) in enumerate(kinds):
            host = Host(
                self.world,
                f"n{place}",
                named=named,
                tables_first=tables_first,
                careless=careless,
                may_write=not (reader and place == 0),
            )
            self.world.hosts.append(host)
            host.connect()
        self.storm(seed, length)

    def host(self, place: int) -> Host:
        return self.world.hosts[place % len(self.world.hosts)]

    def events(self, kind: int, place: int, size: int) -> list[tuple[str, str]]:
        self.number += size
        return [saying(kind, place, self.number - left) for left in range(size, 0, -1)]

    # ---- users

    @rule(which=hosts, kind=st.integers(0, 5), place=places, size=sizes)
    def commit(self, which: int, kind: int, place: int, size: int) -> None:
        self.host(which).commit(self.events(kind, place, size))

    @rule(kind=st.integers(0, 5), place=places)
    def commit_elsewhere(self, kind: int, place: int) -> None:
        ((name, args),) = self.events(kind, place, 1)
        self.world.commit(name, json.loads(args))

    @rule(which=hosts)
    def allow(self, which: int) -> None:
        self.host(which).allow()

    @rule(which=hosts)
    def discard(self, which: int) -> None:
        self.host(which).discard()

    # ---- time and network

    @rule(choices=st.lists(st.integers(0, 30), min_size=1, max_size=25))
    def go_on(self, choices: list[int]) -> None:
        for choice in choices:
            steps = self.world.steps()
            if not steps:
                return
            steps[choice % len(steps)]()

    @rule(seed=st.integers(0, 10_000), length=st.sampled_from([20, 100]))
    def storm(self, seed: int, length: int) -> None:
        """Much of everything, in an order that only the seed knows."""
        chance = random.Random(seed)
        acts, weights = zip(*self.storms(chance), strict=True)
        for act in chance.choices(acts, weights, k=length):
            act()

    def storms(self, chance: random.Random) -> list[tuple[Callable[[], object], float]]:
        def host() -> int:
            return chance.randrange(len(self.world.hosts))

        def network() -> None:
            if steps := self.world.steps():
                chance.choice(steps)()

        def size() -> int:
            return chance.choice([1] * 30 + [2] * 10 + [120])

        def reconnect() -> None:
            for one in self.world.hosts:
                if one.connection is None or not one.connection.served:
                    one.connect()

        def fate() -> tuple[int, bool]:
            return chance.choice([0, 0, 1, 2, 1_000]), chance.random() < 0.5

        return [
            (network, 70),
            (lambda: self.commit(host(), chance.randrange(6), chance.randrange(3), size()), 8),
            (lambda: self.commit_elsewhere(chance.randrange(6), chance.randrange(3)), 0.5),
            (reconnect, 3),
            (lambda: self.connect(host()), 0.7),
            (lambda: self.cut(host()), 0.7),
            (lambda: self.drop(chance.randrange(10)), 0.7),
            (lambda: self.wait(1.0), 1),
            (self.crash_server, 0.2),
            (lambda: self.fail_for_a_moment(1), 0.3),
            (lambda: self.crash_client(host(), *fate()), 0.5),
            (lambda: self.crash_client_at_a_frame(host(), *fate(), chance.randrange(6)), 1.5),
            (lambda: self.crash_client_at_a_commit(host(), *fate(), chance.randrange(3), size()), 0.3),
        ]

    @rule(seconds=st.sampled_from([0.5, 1.0, 1.0, 1.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds
        for host in self.world.hosts:
            host.tick(self.world.now)

    @rule(which=hosts)
    def connect(self, which: int) -> None:
        self.host(which).connect()

    @rule(which=hosts)
    def cut(self, which: int) -> None:
        self.host(which).cut()

    @rule(which=st.integers(0, 9))
    def drop(self, which: int) -> None:
        if self.world.connections:
            self.world.connections[which % len(self.world.connections)].die()
            self.world.forget()

    # ---- trouble

    @rule()
    def crash_server(self) -> None:
        self.world.crash()

    @rule(count=st.integers(1, 3))
    def fail_for_a_moment(self, count: int) -> None:
        self.world.failures = count

    @rule(which=hosts, lag=lags, keeps_all=st.booleans())
    def crash_client(self, which: int, lag: int, keeps_all: bool) -> None:
        self.host(which).crash(lag, keeps_all)

    @rule(which=hosts, lag=lags, keeps_all=st.booleans(), budget=budgets)
    def crash_client_at_a_frame(self, which: int, lag: int, keeps_all: bool, budget: int) -> None:
        host = self.host(which)
        if host.connection is not None and host.connection.down:
            self.crashing(host, lambda: host.connection and host.connection.arrive(budget), lag, keeps_all)

    @rule(which=hosts, lag=lags, keeps_all=st.booleans(), budget=st.integers(0, 2), size=sizes)
    def crash_client_at_a_commit(self, which: int, lag: int, keeps_all: bool, budget: int, size: int) -> None:
        host = self.host(which)
        self.crashing(host, lambda: host.commit(self.events(3, 0, size), budget), lag, keeps_all)

    def crashing(self, host: Host, act: Callable[[], object], lag: int, keeps_all: bool) -> None:
        with pytest.raises(Crash):
            act()
        host.crash(lag, keeps_all)

    # ---- what holds

    @invariant()
    def states_are_whole(self) -> None:
        for host in self.world.hosts:
            host.session.state.check()
            assert len(host.applied) <= self.world.store.head

    def teardown(self) -> None:
        try:
            if self.world.hosts:
                self.world.failures = 0
                self.world.settle()
                check(self.world)
        finally:
            self.world.close()


def check(world: World) -> None:
    """What must hold when everybody has come to rest."""
    log = world.log()
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    found = Counter(content_of(event) for event in log)
    committed = sum((Counter(host.committed) for host in world.hosts), Counter())
    assert sum(found.values()) <= sum(committed.values()) + world.committed
    for host in world.hosts:
        assert [event.body for event in host.applied] == [event.body for event in log]
        refused = Counter(
            (event.sessionId, bytes(event.args).decode()) for event in host.session.state.pending
        )
        if refused:
            assert host.session.refused is not None
            assert not host.may_write
        own = Counter(host.committed)
        for event, count in own.items():
            least = count - refused[event] - host.lost[event]
            assert least <= found[event] <= count - refused[event], event
            assert found[event] >= host.acknowledged[event], event
        assert host.in_order([content_of(event) for event in log])
    check_tables(world)


def check_tables(world: World) -> None:
    fresh = State.open(world.instance, None, alias_of(f"fresh-{world.id}"), agent_schema, "backend", 10**9)
    try:
        fresh.apply(world.log())
        expected = support.contents(fresh)
    finally:
        fresh.close()
    for host in world.hosts:
        assert support.contents(host.tables) == expected


def test_sessions_converge_whatever_comes_between_them(registry: Registry, instance: Instance) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Machine(registry, instance),
        # A failure is told as it was found: to make it smaller can take many minutes (add Phase.shrink for that).
        settings=settings(
            max_examples=60,
            stateful_step_count=12,
            deadline=None,
            phases=[Phase.reuse, Phase.generate],
        ),
    )


@pytest.mark.parametrize("count", [2, 5])
def test_sessions_that_commit_200_events_each_at_once_converge(
    registry: Registry, instance: Instance, count: int
) -> None:
    world = World(registry, instance)
    chance = random.Random(count)
    for place in range(count):
        world.hosts.append(Host(world, f"n{place}"))
        world.hosts[-1].connect()
    for number in range(200):
        for place, host in enumerate(world.hosts):
            host.commit([saying(3, place % 3, number * count + place)])
        for _ in range(20):
            if steps := world.steps():
                chance.choice(steps)()
    world.settle()
    assert world.store.head == 200 * count
    check(world)
    world.close()
