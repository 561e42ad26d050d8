"""What every log promises: one suite, run against each backend."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from jupyter_agentstore.core.errors import DamagedLog, HeadMoved, StoreClosed
from jupyter_agentstore.core.events import Event, wire
from jupyter_agentstore.eventlog import EventLog
from jupyter_agentstore.eventlog import contract as contract_module
from tests.eventlog.made import TIME, event, events


def test_a_new_log_is_empty(log: EventLog) -> None:
    assert (log.head, log.last_recorded_at, log.read(0, 10), list(log.scan()), log.verify()) == (
        0,
        0,
        [],
        [],
        0,
    )


def test_appended_events_come_back_as_they_were(log: EventLog) -> None:
    log.append(events(1, 3))
    log.append([event(4)])
    assert (log.head, log.last_recorded_at) == (4, TIME + 4)
    assert log.read(0, 100) == events(1, 4)


@pytest.mark.parametrize("count", [1_999, 2_000, 5_001])
def test_groups_of_any_size_come_back_as_they_were(log: EventLog, count: int) -> None:
    log.append(events(1, count))
    assert [e for page in log.scan(size=1_500) for e in page] == events(1, count)


def test_appending_nothing_does_nothing(log: EventLog) -> None:
    log.append([])
    assert log.head == 0


@pytest.mark.parametrize("seq", [0, 1, 2, 3, 5, 9])
def test_an_append_elsewhere_than_at_the_head_is_refused_with_the_head(log: EventLog, seq: int) -> None:
    log.append(events(1, 3))
    with pytest.raises(HeadMoved) as refused:
        log.append([event(seq)])
    assert (refused.value.head, refused.value.provided) == (3, seq - 1)
    log.append([event(4)])
    assert log.read(0, 10) == events(1, 4)


@pytest.mark.parametrize("seqs", [(4, 6), (4, 4), (4, 5, 4), (4, 3)])
def test_a_gap_or_a_repetition_refuses_the_whole_group(log: EventLog, seqs: tuple[int, ...]) -> None:
    log.append(events(1, 3))
    with pytest.raises(ValueError, match="comes where"):
        log.append([event(seq, time=TIME + 9) for seq in seqs])
    assert log.read(0, 10) == events(1, 3)


def test_times_that_go_back_refuse_the_whole_group(log: EventLog) -> None:
    log.append(events(1, 3))
    for times in [(TIME + 2,), (TIME + 9, TIME + 8), (-1,)]:
        with pytest.raises(ValueError, match="goes back"):
            log.append([event(4 + n, time=time) for n, time in enumerate(times)])
    log.append([event(4, time=TIME + 3), event(5, time=TIME + 3)])
    assert (log.head, log.last_recorded_at) == (5, TIME + 3)


def test_a_time_beyond_64_bits_is_refused(log: EventLog) -> None:
    with pytest.raises(ValueError, match="out of range"):
        log.append([event(1, time=2**63)])
    log.append([event(1, time=2**63 - 1)])
    assert log.read(0, 1)[0].recorded_at == 2**63 - 1


@pytest.mark.parametrize("field", ["actor", "body"])
def test_a_lone_surrogate_that_is_no_escape_refuses_the_group(log: EventLog, field: str) -> None:
    good = event(2)
    texts = {"actor": good.actor, "body": good.body} | {field: "a\ud83d"}
    with pytest.raises(ValueError, match="Event 2 holds a lone surrogate"):
        log.append([event(1), Event(2, good.recorded_at, texts["actor"], texts["body"])])
    assert log.head == 0


def test_text_of_every_kind_is_kept_to_the_letter(log: EventLog) -> None:
    texts = [
        "",
        "Grüße, 世界 🎉",
        "'\"\\;--",
        "\\ud83d",
        "\\u0000",
        "a\u2028b\ufffd\ufeff",
        "\x7f\x01",
        "x" * 300_000,
    ]
    group = [Event(n, TIME, text[:100], text) for n, text in enumerate(texts, 1)]
    log.append(group)
    assert log.read(0, 100) == group


def test_read_gives_what_comes_after_the_cursor_up_to_the_limit(log: EventLog) -> None:
    log.append(events(1, 10))
    assert log.read(0, 3) == events(1, 3)
    assert log.read(7, 2) == events(8, 9)
    assert log.read(7, 99) == events(8, 10)
    assert log.read(10, 5) == log.read(11, 5) == log.read(2**40, 5) == []


@pytest.mark.parametrize(("after", "limit"), [(-1, 5), (0, 0), (0, -3)])
def test_a_cursor_or_limit_that_makes_no_sense_is_refused(log: EventLog, after: int, limit: int) -> None:
    with pytest.raises(ValueError, match="is n"):
        log.read(after, limit)
    with pytest.raises(ValueError, match="is n"):
        next(log.scan(after, limit))


def test_max_bytes_bounds_the_bodies_but_gives_at_least_one_event(log: EventLog) -> None:
    log.append([event(1, size=1000), event(2, size=1000), event(3, size=5000), event(4, size=10)])
    size = [len(e.body.encode()) for e in log.read(0, 4)]
    assert len(log.read(0, 10, max_bytes=1)) == 1
    assert len(log.read(0, 10, max_bytes=size[0] + size[1] - 1)) == 1
    assert len(log.read(0, 10, max_bytes=size[0] + size[1])) == 2
    assert len(log.read(0, 10, max_bytes=sum(size))) == 4
    assert [e.seq for e in log.read(2, 10, max_bytes=1)] == [3]
    assert len(log.read(0, 2, max_bytes=10**9)) == 2


def test_max_bytes_counts_utf8_and_not_characters(log: EventLog) -> None:
    log.append([Event(n, TIME, "ada", "ü" * 100) for n in (1, 2, 3)])
    assert len(log.read(0, 10, max_bytes=400)) == 2
    assert len(log.read(0, 10, max_bytes=399)) == 1


def test_scan_gives_everything_once_in_pages(log: EventLog) -> None:
    log.append(events(1, 25))
    assert [len(page) for page in log.scan(size=10)] == [10, 10, 5]
    assert [e for page in log.scan(after=7, size=4, end=19) for e in page] == events(8, 19)
    assert [len(page) for page in log.scan(end=99)] == [25]


def test_a_scans_pages_are_bounded_in_bytes(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract_module, "PAGE_BYTES", 2_500)
    log.append([*events(1, 5, size=1000), event(6, size=9000), event(7)])
    assert [[e.seq for e in page] for page in log.scan()] == [[1, 2], [3, 4], [5], [6], [7]]


def test_a_scan_ends_at_the_head_of_its_first_page(log: EventLog) -> None:
    log.append(events(1, 4))
    pages = log.scan(size=2)
    first = next(pages)
    log.append(events(5, 9))
    assert first + [e for page in pages for e in page] == events(1, 4)


def test_readers_see_whole_groups_and_nothing_twice_while_others_append(log: EventLog) -> None:
    group, rounds = 7, 60
    done = threading.Event()

    def follow() -> int:
        after = passes = 0
        while after < group * rounds:
            last = done.is_set()
            head = log.head
            assert head % group == 0
            page = log.read(after, 50, max_bytes=None if passes % 2 else 3_000)
            assert page == events(after + 1, after + len(page))
            assert page or after >= head
            after, passes = after + len(page), passes + 1
            assert not (last and not page and after < group * rounds)
        return sum(len(p) for p in log.scan(size=100))

    with ThreadPoolExecutor(4) as pool:
        followers = [pool.submit(follow) for _ in range(4)]
        for n in range(rounds):
            log.append(events(n * group + 1, (n + 1) * group))
        done.set()
        assert [f.result() for f in followers] == [group * rounds] * 4


def test_of_writers_at_one_head_one_wins(log: EventLog) -> None:
    def write() -> int:
        lost = 0
        for _ in range(20):
            while True:
                try:
                    log.append([event(log.head + 1)])
                    break
                except HeadMoved:
                    lost += 1
        return lost

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(write) for _ in range(4)]:
            future.result()
    assert log.read(0, 1000) == events(1, 80)


def test_head_and_last_time_never_go_back_for_a_reader(log: EventLog) -> None:
    seen: list[tuple[int, int]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append((log.head, log.last_recorded_at))

    with ThreadPoolExecutor(1) as pool:
        watcher = pool.submit(watch)
        for n in range(1, 100):
            log.append([event(n)])
        done.set()
        watcher.result()
    assert all(a <= b for a, b in pairwise(seen))
    assert all(time >= TIME + head for head, time in seen if head)


def test_verify_counts_and_tells_how_far_it_is(log: EventLog) -> None:
    log.append(events(1, 12_000))
    told: list[tuple[int, int]] = []
    assert log.verify(lambda done, total: told.append((done, total))) == 12_000
    assert told == [(10_000, 12_000), (12_000, 12_000)]


def test_verify_while_others_append_checks_what_was_there(log: EventLog) -> None:
    log.append(events(1, 10))

    def more(done: int, total: int) -> None:
        log.append([event(log.head + 1)])

    assert log.verify(more) == 10
    assert log.verify() == 11


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("{}", "not an event"),
        ("no JSON", "not an event"),
        (
            '{"name":"a","args":{},"seqNum":3,"parentSeqNum":1,"clientId":"c","sessionId":"s"}',
            "numbered 3 after 1",
        ),
        (
            '{"name":"a","args":{},"seqNum":2,"parentSeqNum":0,"clientId":"c","sessionId":"s"}',
            "numbered 2 after 0",
        ),
        ('{"name":"a","args":{},"seqNum":2,"parentSeqNum":1,"clientId":7,"sessionId":"s"}', "not an event"),
        (
            '{"name":"a","args":NaN,"seqNum":2,"parentSeqNum":1,"clientId":"c","sessionId":"s"}',
            "not an event",
        ),
    ],
)
def test_verify_finds_a_body_that_is_not_its_event(log: EventLog, body: str, fault: str) -> None:
    log.append([event(1), Event(2, TIME + 2, "ada", body), event(3)])
    with pytest.raises(DamagedLog, match=f"Event 2.*{fault}"):
        log.verify()


@pytest.mark.parametrize(
    "args",
    ['{"a":"\\ud83d"}', '{"a":1e999}', '{"a":' + "9" * 400 + "}", '{"a":' + "[" * 5000 + "]" * 5000 + "}"],
)
def test_verify_accepts_whatever_json_allows(log: EventLog, args: str) -> None:
    body = f'{{"name":"a","args":{args},"seqNum":1,"parentSeqNum":0,"clientId":"c","sessionId":"s"}}'
    log.append([Event(1, TIME, "ada", body)])
    assert log.verify() == 1


def test_verify_accepts_an_event_without_args(log: EventLog) -> None:
    log.append([Event(1, TIME, "ada", wire("v1.Pinged", "", 1, "c", "s"))])
    assert log.verify() == 1


def test_a_checkpoint_changes_nothing(log: EventLog) -> None:
    log.append(events(1, 100))
    log.checkpoint()
    log.append(events(101, 120))
    log.checkpoint()
    assert log.read(0, 1000) == events(1, 120)


def test_a_closed_log_refuses_every_call_and_closes_twice(log: EventLog) -> None:
    log.append(events(1, 3))
    log.close()
    log.close()
    for call in (
        lambda: log.append([event(4)]),
        lambda: log.append([]),
        lambda: log.read(0, 1),
        lambda: list(log.scan()),
        log.verify,
        log.checkpoint,
    ):
        with pytest.raises(StoreClosed):
            call()


def test_closing_waits_for_readers_and_turns_later_ones_away(log: EventLog) -> None:
    log.append(events(1, 500))
    started = threading.Barrier(4)

    def read() -> int:
        started.wait()
        whole = 0
        while True:
            try:
                assert len(log.read(0, 1000)) == 500
                whole += 1
            except StoreClosed:
                return whole

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        started.wait()
        log.close()
        for reader in readers:
            reader.result()
