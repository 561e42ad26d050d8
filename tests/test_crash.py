"""``kill -9`` of a real server under load; the rounds and what they check are the benchmark's."""

from __future__ import annotations

from pathlib import Path

from benchmarks.crash import Crash

ROUNDS = 10


def test_after_kill_9_all_that_was_acknowledged_is_there_once_and_every_message_is_answered_once(
    tmp_path: Path,
) -> None:
    crash = Crash(tmp_path)
    for _ in range(ROUNDS):
        crash.round(longest=0.5)
    tally = crash.finish()
    assert tally.faults == []
    assert tally.acknowledged >= ROUNDS
    assert tally.replies > 0
