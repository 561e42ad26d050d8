"""Tails follow their groups and stay within their bytes."""

from __future__ import annotations

from jupyter_agentstore.core.operations import Row, RowChange
from jupyter_agentstore.state.tails import KEEP, Tail, Tails
from tests.state.support import puppet

LINES = puppet().tables["lines"]


def line(seq: int, text: str = "", thing: str = "a") -> Row:
    return {"id": f"l{seq}", "thing": thing, "seq": seq, "text": text}


def put(tails: Tails, row: Row) -> None:
    tails.follow(LINES, RowChange("lines", row["id"], None, row, row["seq"]))


def test_a_tail_that_grows_is_cut_back_and_still_says_what_it_knows() -> None:
    tails = Tails()
    tails.put("lines", "a", Tail(LINES, []))
    for seq in range(1, 3 * KEEP):
        put(tails, line(seq))
    tail = tails.get("lines", "a")
    assert tail is not None
    assert len(tail.rows) <= 2 * KEEP
    assert [row["seq"] for row in tail.read(None, 3) or []] == [3 * KEEP - 3, 3 * KEEP - 2, 3 * KEEP - 1]
    assert tail.read(None, 3 * KEEP) is None
    assert tail.read(1, 5) is None
    assert [row["seq"] for row in tail.read(3 * KEEP - 3, 5) or []] == [3 * KEEP - 2, 3 * KEEP - 1]


def test_rows_from_before_a_tail_do_not_enter_it() -> None:
    tail = Tail(LINES, [line(10), line(11)], first=line(10))
    tail.add(line(5))
    assert [row["seq"] for row in tail.rows] == [10, 11]
    tail.remove(line(10))
    tail.remove(line(11))
    tail.add(line(6))
    assert tail.rows == []
    assert tail.read(None, 1) is None


def test_all_tails_together_stay_within_their_bytes() -> None:
    tails = Tails(limit=100_000)
    for number in range(100):
        tails.put("lines", str(number), Tail(LINES, [line(1, "x" * 5_000, str(number))]))
    assert 5 < len(tails) < 20
    assert tails.get("lines", "0") is None
    assert tails.get("lines", "99") is not None
    for seq in range(2, 50):
        put(tails, line(seq, "x" * 5_000, "99"))
    assert len(tails) == 0
    tails.put("lines", "huge", Tail(LINES, [line(1, "x" * 90_000)]))
    assert len(tails) == 0


def test_a_row_that_changes_its_group_changes_its_tail() -> None:
    tails = Tails()
    tails.put("lines", "a", Tail(LINES, [line(1), line(2)]))
    tails.put("lines", "b", Tail(LINES, []))
    tails.follow(LINES, RowChange("lines", "l1", line(1), line(1, thing="b"), 3))
    tails.follow(LINES, RowChange("lines", "l2", line(2), None, 4))
    (a, b) = (tails.get("lines", "a"), tails.get("lines", "b"))
    assert a is not None
    assert b is not None
    assert (a.rows, b.rows) == ([], [line(1, thing="b")])
