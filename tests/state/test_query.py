"""User SQL runs within its limits, changes nothing, sees one store, and leaves the connection as it was."""
# ruff: noqa: E501 -- a statement stands in one line where it can

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyter_agentstore.core.errors import (
    AgentStoreError,
    QueryFailed,
    QueryRefused,
    QueryTimeout,
    QueryTooLarge,
)
from jupyter_agentstore.state.patterns import Patterns
from jupyter_agentstore.state.query import Limits, run, to_json
from jupyter_agentstore.state.statement import Checked
from tests.state.sandbox import OTHER, OWN, SECRET, TABLES, Sandbox
from tests.state.test_statement import ALLOWED, REFUSED


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox()
    yield made
    made.instance.close()


@pytest.fixture(scope="module")
def large() -> Iterator[Sandbox]:
    """Enough rows that joining all with all takes for ever."""
    made = Sandbox(messages=20_000, words=100)
    yield made
    made.instance.close()


def usable(sandbox: Sandbox) -> bool:
    """Whether the connection runs another statement, in a transaction of its own."""
    sandbox.cursor.execute("begin").fetchall()
    sandbox.cursor.execute("rollback").fetchall()
    return sandbox.rows("select 1") == [(1,)]


# Parameters


def test_parameters_come_as_a_list_or_by_name(sandbox: Sandbox) -> None:
    assert sandbox.rows("select id from messages where seq = ? and role = ?", [1, "user"]) == [("m0",)]
    assert sandbox.rows("select id from messages where seq = $2 and role = $1", ("user", 1)) == [("m0",)]
    named = {"role": "user", "n": 2}
    assert sandbox.rows("select id from messages where role = $role order by seq limit $n", named) == [
        ("m0",),
        ("m2",),
    ]
    assert sandbox.rows("select $x", {"x": "'; drop table messages; --"}) == [("'; drop table messages; --",)]
    assert sandbox.rows("select len($x), $y is null", {"x": [1, 2], "y": None}) == [(2, True)]
    assert sandbox.rows("select metadata->>? from messages where seq = 2", ["$.model"]) == [("x",)]


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("select ?", None),
        ("select ?", []),
        ("select ?", [1, 2]),
        ("select $a", {"b": 1}),
        ("select $a", {"a": 1, "b": 2}),
        ("select 1", [1]),
        ("select ?", [object()]),
        ("select ?", ["\ud83d"]),
        ("select ?", [2**200]),
        ("select ?", "x"),
        ("select ?", 1),
        ("select $a", {1: 2}),
        ("select ?::int", ["x"]),
    ],
)
def test_parameters_that_do_not_fit_fail(sandbox: Sandbox, sql: str, params: Any) -> None:
    with pytest.raises(QueryFailed):
        sandbox.run(sql, params)
    assert usable(sandbox)


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("select json_extract(metadata, ?) from messages", ["$..*"]),
        ("select metadata->>$path from messages", {"path": "$..a"}),
        ("select json_extract(metadata, ?) from messages", [["$.a", "$..a"]]),
        ("select json_extract(metadata, [?, '$.b']) from messages", ["$..a"]),
        ("select regexp_matches(content, $1) from messages", ["((a{1,30}){1,30}){1,30}"]),
    ],
)
def test_patterns_in_parameters_are_held_to_the_same_rules(sandbox: Sandbox, sql: str, params: Any) -> None:
    with pytest.raises(QueryRefused):
        sandbox.run(sql, params)


# What fails


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("select nothing from messages", "nothing"),
        ("select m.nothing from messages m", "nothing"),
        ("select lower(1, 2, 3)", "lower"),
        ("select content::int from messages", "word"),
        ("select sum(content) from messages", "sum"),
        ("select role, count(*) from messages", "GROUP BY"),
        ("select id from messages a, messages b", "mbiguous"),
        ("select 1 + 'x'", "x"),
        ("select (select id from messages)", "subquery"),
        ("select #7", "range"),
        ("selec 1", "selec"),
    ],
)
def test_an_error_of_the_analyst_is_told_in_duckdbs_words(sandbox: Sandbox, sql: str, said: str) -> None:
    with pytest.raises(QueryFailed) as failed:
        sandbox.run(sql)
    assert said in failed.value.message
    assert OWN not in failed.value.message
    assert usable(sandbox)


def test_an_error_tells_neither_catalogs_nor_files_and_not_all_of_a_long_value(sandbox: Sandbox) -> None:
    with pytest.raises(QueryFailed) as failed:
        sandbox.run(
            "select ($x || '1')::int", {"x": f"{OTHER}.main.x /home/ada/state.duckdb " + "y" * 100_000}
        )
    assert OTHER not in failed.value.message
    assert "/home/ada" not in failed.value.message
    assert len(failed.value.message) < 3_000


def test_an_error_in_the_middle_of_the_answer_leaves_the_connection_clean(large: Sandbox) -> None:
    with pytest.raises(QueryFailed, match="Could not convert"):
        large.run("select case when seq = 15000 then content::int else 1 end from messages")
    assert usable(large)


# What is out of reach even if the check let it through


def test_variables_of_the_caller_are_no_tables(sandbox: Sandbox) -> None:
    frame = pd.DataFrame({"a": [1]})  # noqa: F841
    with pytest.raises(QueryRefused):
        sandbox.run("select * from frame")
    with pytest.raises(QueryFailed):
        run(sandbox.cursor, "select * from frame", None, TABLES | {"frame"}, Limits())


def test_the_transaction_and_the_instance_hold_without_the_check(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    anything = Checked(Patterns())
    monkeypatch.setattr("jupyter_agentstore.state.query.check", lambda *_: anything)
    before = sandbox.fingerprint()
    target = tmp_path / "x"
    for sql in (
        "delete from messages",
        "with x as (delete from messages returning *) select * from x",
        "insert into messages (id) values ('x')",
        "create table x as select 1",
        "drop table messages",
        f"delete from {OTHER}.messages",
        f"copy messages to '{target}'",
        f"with x as (copy messages to '{target}') select 1",
        f"attach '{target}' as x",
        f"select * from read_text('{__file__}')",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "set memory_limit = '100GB'",
    ):
        with suppress(AgentStoreError):
            sandbox.run(sql)
        assert usable(sandbox)
        assert not target.exists()
    assert sandbox.fingerprint() == before


# Limits


def test_rows_are_capped(large: Sandbox) -> None:
    assert large.run("select seq from messages limit 100", rows=100).num_rows == 100
    with pytest.raises(QueryTooLarge, match=r"100 rows.*LIMIT"):
        large.run("select seq from messages limit 101", rows=100)
    with pytest.raises(QueryTooLarge, match="rows"):
        large.run("select a.seq from messages a, messages b, messages c")
    assert usable(large)


def test_bytes_are_capped(large: Sandbox) -> None:
    with pytest.raises(QueryTooLarge, match="1,000,000 bytes"):
        large.run("select * from messages", bytes=1_000_000)
    with pytest.raises(QueryTooLarge, match="bytes"):
        large.run("select a.content, b.content from messages a, messages b", rows=10**9)
    assert usable(large)


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from messages a, messages b, messages c",
        "select count(*) from range(100000000000)",
        "select sum(n) from messages, range(seq * 1000000) r(n)",
        "select max(levenshtein(a.content, b.content)) from messages a, messages b",
        "with recursive t(n) as (select 1 union all select n + 1 from t) select max(n) from t",
        "select length(list_reduce(list(content), lambda a, b: a || b)) from messages",
        "select count(*) from generate_series(timestamp '2000-01-01', timestamp '9000-01-01', interval 1 microsecond)",
    ],
)
def test_a_query_ends_at_its_time_limit(large: Sandbox, sql: str) -> None:
    began = time.monotonic()
    with pytest.raises(QueryTimeout, match=r"0\.5 seconds"):
        large.run(sql, seconds=0.5)
    assert time.monotonic() - began < 10
    assert usable(large)


def test_a_query_is_never_interrupted_for_the_one_before_it(sandbox: Sandbox) -> None:
    sql = "select count(*) from range(3000) a, range(3000) b"
    interrupted = 0
    for step in range(40):
        try:
            sandbox.run(sql, seconds=step / 2_000)
        except QueryTimeout:
            interrupted += 1
        assert sandbox.rows(sql) == [(9_000_000,)]
    assert interrupted


def test_work_in_memory_is_capped(large: Sandbox) -> None:
    for sql in (
        "select len(list(a.content)) from messages a, messages b",
        "select len(string_agg(a.content, ',')) from messages a, messages b",
        "select len(max(a.id || b.id, 900000)) from messages a, messages b where a.seq < 300 group by b.seq % 10",
        "select count(*) from (from messages using sample reservoir(1000000000 rows))",
    ):
        with pytest.raises(QueryTooLarge, match="memory"):
            large.run(sql, seconds=60)
        assert usable(large)


HEAVY = [
    "select len(list(a.content)) from messages a, messages b",
    "select len(string_agg(a.content, ',')) from messages a, messages b",
    "select string_agg(content, '') over (order by seq) from messages",
    "select list(content) over (order by seq) from messages",
    "select max(len(repeat(content, 100))) from messages",
    "select sum(len(str_split(x, ''))) from (select string_agg(content, '') as x from messages)",
    "select len(list_transform(x, lambda y: y || y)) from (select list(content) as x from messages)",
    "select to_json(list(messages)) from messages",
    "with recursive t(x) as (select content from messages union all select x || 'a' from t) select count(*) from t",
    "with recursive t(x) as (select 'a' union all select x || repeat('a', 50000) from t) select max(len(x)) from t",
    "select a.content, b.content from messages a, messages b order by all",
    "select distinct a.content || b.id from messages a, messages b",
    "select a.id, list(b.content) from messages a, messages b group by all",
    f"select {', '.join(f'upper(content || {i})' for i in range(500))} from messages",
    f"select count(*) from {', '.join(f'messages m{i}' for i in range(20))}",
    "select * from messages a, messages b",
    "select * from (select list(content) as x from messages), range(100000)",
    "select [x, x, x, x] from (select list(content) as x from messages), range(2048)",
    "select {'a': x, 'b': [x, x]}, x[1], coalesce(x, []) from (select list(content) as x from messages), range(2048)",
    *REFUSED["copied for each row"].strip().splitlines(),
    *REFUSED["too large"].strip().splitlines(),
    *REFUSED["but not multiply it"].strip().splitlines(),
]


def test_memory_stays_bounded_whatever_is_asked() -> None:
    """In a process of its own, whose memory has an end: what breaks it is a crash here, not of the suite."""
    code = f"""
        import resource
        from jupyter_agentstore.core.errors import AgentStoreError
        from tests.state.sandbox import Sandbox
        sandbox = Sandbox(messages=10_000, words=200, memory_limit="300MB")
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        for sql in {HEAVY!r}:
            try:
                sandbox.run(sql, seconds=1)
            except AgentStoreError:
                pass
        assert sandbox.rows("select count(*) from messages") == [(10_000,)]
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=250,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert int(done.stdout) < 1_500_000  # kilobytes


def test_a_query_for_which_the_process_grows_too_much_is_interrupted(large: Sandbox) -> None:
    # DuckDB's own limit does not count the chunks in which a filter collects what is left of its rows.
    sql = """
        select sum(len(x)) from (select string_agg(content) as x from messages) g, messages m
        where (len(x) + m.seq) % 50 = 1"""
    with pytest.raises(QueryTooLarge, match="memory"):
        large.run(sql, seconds=60, memory=200_000_000)
    assert usable(large)


def test_queries_run_side_by_side(sandbox: Sandbox) -> None:
    cursors = [sandbox.instance.cursor(OWN) for _ in range(4)]
    answers: list[Any] = []

    def work(cursor: Any, seconds: float) -> None:
        for _ in range(10):
            try:
                table = run(
                    cursor, "select count(*) from range(4000) a, range(4000) b", None, TABLES, Limits(seconds)
                )
                answers.append(table.to_pydict())
            except QueryTimeout:
                answers.append(None)

    threads = [
        threading.Thread(target=work, args=(c, s))
        for c, s in zip(cursors, (30, 0.001, 30, 0.01), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cursor in cursors:
        sandbox.instance.release(OWN, cursor)
    assert len(answers) == 40
    assert all(answer in (None, {"count_star()": [16_000_000]}) for answer in answers)
    assert sum(answer is not None for answer in answers) >= 20


# Chance

_WORDS = [
    *TABLES,
    "agentstore_meta",
    OTHER,
    OWN,
    "main",
    "read_text('/etc/passwd')",
    "query('select 1')",
    "duckdb_tables()",
]
_WORDS += [
    "delete from messages",
    "returning *",
    "select",
    "from",
    "where",
    "(",
    ")",
    ",",
    "*",
    ";",
    ".",
    "'",
    '"',
    "--",
]
_WORDS += [
    "with x as (",
    "x",
    "show all tables",
    "union all",
    "recursive",
    "$1",
    "?",
    "||",
    "->>",
    "::json",
    "repeat(",
]
_WORDS += [
    "current_catalog",
    "order by all",
    "limit 5",
    "copy",
    "to '/tmp/x'",
    "attach",
    "lambda x:",
    "at (version => 1)",
]
_STATEMENTS = [
    *ALLOWED,
    *(sql for cases in REFUSED.values() for sql in cases.strip().splitlines() if len(sql) < 500),
]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """Statements cut up and put together in other ways."""
    words = [
        word
        for sql in draw(st.lists(st.sampled_from(_STATEMENTS), min_size=1, max_size=3))
        for word in sql.split()
    ]
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(words)))
        match draw(st.integers(0, 3)):
            case 0:
                words.insert(at, draw(st.sampled_from(_WORDS)))
            case 1 if at < len(words):
                words[at] = draw(st.sampled_from(_WORDS))
            case 2:
                del words[at : at + draw(st.integers(1, 5))]
            case _:
                words[at:at] = words[draw(st.integers(0, len(words))) :][:6]
    return " ".join(words)


@st.composite
def nested(draw: st.DrawFn) -> str:
    """Queries in the places of queries, tables in the places of tables, whether they may be there or not."""
    sources = st.sampled_from(
        [
            *TABLES,
            "agentstore_meta",
            "x",
            f"{OTHER}.messages",
            "(show all tables)",
            "duckdb_tables()",
            "read_text('/etc/passwd')",
            "range(3)",
            "query_table('agentstore_meta')",
        ]
    )
    columns = st.sampled_from(
        ["*", "count(*)", "1", "columns(*)", "max(content)", "key", "value", "a || b as c"]
    )
    query = st.recursive(
        st.builds("select {} from {}".format, columns, sources),
        lambda inner: st.one_of(
            st.builds("select {} from ({})".format, columns, inner),
            st.builds("with x as ({}) select {} from {}".format, inner, columns, sources),
            st.builds("with recursive x as ({} union all {}) from {}".format, inner, inner, sources),
            st.builds("{} union all by name ({})".format, inner, inner),
            st.builds("select ({}), * from {}".format, inner, sources),
            st.builds("select * from {} where exists ({})".format, sources, inner),
            st.builds("from ({}) order by ({}) limit 3".format, inner, inner),
            st.builds(
                "with x as (delete from messages returning *), y as ({}) from {}".format, inner, sources
            ),
        ),
        max_leaves=5,
    )
    return draw(query)


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[tuple[Sandbox, list[Any]]]:
    """A sandbox, and what it holds and must go on holding."""
    made = Sandbox()
    yield made, made.fingerprint()
    made.instance.close()


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(sql=mutated() | nested())
def test_whatever_is_asked_nothing_changes_and_nothing_foreign_is_seen(
    fuzzed: tuple[Sandbox, list[Any]], sql: str
) -> None:
    sandbox, before = fuzzed
    try:
        answer = json.dumps(to_json(sandbox.run(sql, seconds=1, rows=5_000)), allow_nan=False)
    except AgentStoreError as error:
        answer = error.message
    for foreign in (SECRET, "root:", "hidden"):
        assert foreign not in answer
    assert sandbox.fingerprint() == before
    assert usable(sandbox)


@settings(max_examples=60)
@given(sql=st.text(max_size=60) | st.text("select*from()',;\"\\-/ \n$?0x", max_size=60))
def test_any_text_is_an_answer_or_an_error_of_ours(fuzzed: tuple[Sandbox, list[Any]], sql: str) -> None:
    with suppress(AgentStoreError):
        fuzzed[0].run(sql, seconds=1)


# Answers as JSON


def test_an_answer_as_json(sandbox: Sandbox) -> None:
    sql = r"""
        select timestamptz '2024-01-02 03:04:05.678901Z' as moment, timestamp '2024-01-02 03:04:05' as naive,
            date '2024-01-02' as day, time '03:04:05.5' as clock, 'nan'::double as nan, '-inf'::float as inf, 0.5 as half,
            170141183460469231731687303715884105727 as huge, 9007199254740993 as large, sum(seq) as total,
            '\x00\xff'::blob as bytes, interval '1 month 2 days 3.5 seconds' as pause, interval 0 day as none,
            [1, null] as list, [{'a': now() - now()}, null] as structs, {'a': [timestamptz '2024-01-01 00:00:00Z']} as struct,
            map {'k': 1, 'l': null} as map, map {1: [2]} as numbered, [0.0 / 0, 1] as floats, 'b'::enum ('a', 'b') as enum,
            'c0ffee00-0000-0000-0000-000000000000'::uuid as uuid, true as yes, null as nothing, [1, 2]::int[2] as pair,
            'infinity'::timestamptz as ever, 1::union (n int, t varchar) as either, '{"a": 1}'::json as json
        from messages where seq < 3"""
    assert to_json(sandbox.run(sql)) == [
        {
            "moment": "2024-01-02T03:04:05.678Z",
            "naive": "2024-01-02T03:04:05.000",
            "day": "2024-01-02",
            "clock": "03:04:05.500000",
            "nan": None,
            "inf": None,
            "half": 0.5,
            "huge": 2**127 - 1,
            "large": 9007199254740993,
            "total": 3,
            "bytes": "AP8=",
            "pause": "P1M2DT3.5S",
            "none": "PT0S",
            "list": [1, None],
            "structs": [{"a": "PT0S"}, None],
            "struct": {"a": ["2024-01-01T00:00:00.000Z"]},
            "map": {"k": 1, "l": None},
            "numbered": {"1": [2]},
            "floats": [None, 1.0],
            "enum": "b",
            "uuid": "c0ffee00-0000-0000-0000-000000000000",
            "yes": True,
            "nothing": None,
            "pair": [1, 2],
            "ever": None,
            "either": 1,
            "json": '{"a": 1}',
        }
    ]


def test_nested_answers_keep_their_rows(sandbox: Sandbox) -> None:
    sql = """
        select seq, case when seq % 3 > 0 then range(least(seq, 5)) end as l, case when seq % 2 = 0 then {'n': seq} end as s,
            case when seq % 4 > 0 then map {'n': seq, 'm': null} end as m
        from messages where seq between 3 and 8 order by seq"""
    assert to_json(sandbox.run(sql)) == [
        {
            "seq": seq,
            "l": list(range(min(seq, 5))) if seq % 3 else None,
            "s": None if seq % 2 else {"n": seq},
            "m": {"n": seq, "m": None} if seq % 4 else None,
        }
        for seq in range(3, 9)
    ]


def test_slices_and_parts_of_a_table_are_the_same_rows(large: Sandbox) -> None:
    table = large.run(
        "select seq, [seq, seq + 1] as l, map {seq: seq} as m, {'s': seq} as s from messages order by seq"
    )
    assert len(table.column("l").chunks) > 1
    rows = to_json(table)
    assert rows == [{"seq": n, "l": [n, n + 1], "m": {str(n): n}, "s": {"s": n}} for n in range(1, 20_001)]
    assert to_json(table.slice(1_500, 10)) == rows[1_500:1_510]
    assert to_json(table.slice(0, 0)) == []


def test_columns_of_one_name_are_told_apart(sandbox: Sandbox) -> None:
    table = sandbox.run("select 1 as a, 2 as a, 3 as a_1, 4 as a, 5 as A")
    assert table.column_names == ["a", "a_2", "a_1", "a_3", "A"]
    assert list(to_json(table)[0].values()) == [1, 2, 3, 4, 5]


def test_an_empty_answer_still_has_its_columns(sandbox: Sandbox) -> None:
    table = sandbox.run("select id, seq from messages where false")
    assert table.column_names == ["id", "seq"]
    assert to_json(table) == []


def test_values_that_a_join_repeats_come_in_order_and_under_their_names(sandbox: Sandbox) -> None:
    table = sandbox.run(
        """select c.id, l.seqs, 1 as a, 2 as a, 3 as "A" from conversations c
            left join (select "conversationId" as id, list(seq order by seq) as seqs from messages group by all) l
            using (id) order by c.id desc"""
    )
    assert table.column_names == ["id", "seqs", "a", "a_1", "A"]
    assert table.column("id").to_pylist() == ["c4", "c3", "c2", "c1", "c0"]
    assert table.column("seqs").to_pylist()[4] == list(range(1, 51, 5))


def test_hours_and_days_are_those_of_utc_wherever_the_server_stands() -> None:
    code = """
        from tests.state.sandbox import Sandbox
        print(Sandbox().rows("select hour(timestamptz '2024-06-01 23:00:00Z'), '2024-06-01'::timestamptz::varchar"))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TZ": "Asia/Tokyo"},
    )
    assert done.stdout == "[(23, '2024-06-01 00:00:00+00')]\n", done.stderr


def test_the_order_asked_for_is_the_order_given(large: Sandbox) -> None:
    assert large.run("select seq from messages order by seq desc").column("seq").to_pylist() == list(
        range(20_000, 0, -1)
    )
