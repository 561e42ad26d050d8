"""Which SQL is let through, and which is refused, and why."""
# ruff: noqa: E501 -- each statement stands in a line of its own

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from jupyter_agentstore.core.errors import QueryFailed, QueryRefused
from jupyter_agentstore.state import allowed
from jupyter_agentstore.state.patterns import steps
from jupyter_agentstore.state.statement import check
from tests.state.sandbox import OTHER, OWN, TABLES, Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox()
    yield made
    made.instance.close()


ALLOWED = r"""
select 1
select 1;
select 1 -- a comment
/* a */ select 1 as one
select * from messages
from messages
table messages
from messages select id, content limit 3
select * exclude (content) from messages
select * replace (upper(content) as content) from messages
select * rename (content as text) from messages
select m.* from messages m
select columns('.*[iI]d') from messages
select columns(* exclude content) from messages
select columns(lambda c: c like '%d') from messages
select min(columns(*)) from messages
select messages from messages limit 1
select count(*) from messages
select count() from messages
select role, count(*) from messages group by all
select role, count(*) from messages group by role having count(*) > 1 order by all
select role, count(*) filter (where length(content) > 3) as long from messages group by role
select count(distinct "conversationId") from messages
select metadata->>'model' as model, count(*) from messages group by 1 order by 2 desc
select metadata->'model' from messages
select metadata->>'$.usage.tokens' from messages
select (metadata->>'tokens')::int from messages where metadata is not null
select json_extract(metadata, '$.a[*]'), json_extract_string(metadata, ['$.a', '$.b']) from messages
select json_extract_string(metadata, role) from messages
select unnest(json_keys(metadata)) from messages
select json_object('id', id, 'role', role), json_array(id, seq), to_json(messages) from messages
select from_json(metadata, '{"model": "VARCHAR", "tokens": "INTEGER"}') from messages
select json_group_array(id), json_group_object(id, role) from messages
select json_structure(metadata), json_type(metadata), json_valid(content) from messages
select args->>'content' from events where name = 'v1.MessageAdded'
select name, count(*) from events group by name order by name
select date_trunc('day', timestamp) as day, count(*) from messages group by day order by day
select timestamp::date, extract(hour from timestamp), dayname(timestamp), date_part('year', timestamp) from messages
select strftime(timestamp, '%Y-%m-%d') from messages
select timestamp at time zone 'Europe/Berlin' from messages
select * from messages where timestamp > now() - interval 7 day
select * from messages where timestamp between timestamptz '2024-01-01' and current_timestamp
select time_bucket(interval '1 hour', timestamp), count(*) from messages group by all
select age(max(timestamp), min(timestamp)), date_diff('second', min(timestamp), max(timestamp)) from messages
select m.content, c.title from messages m join conversations c on c.id = m."conversationId"
select * from messages m left join conversations c on c.id = m."conversationId" where c.id is null
select * from messages join conversations using (id)
select * from messages a, messages b where a.seq + 1 = b.seq
select * from messages a positional join messages b
select * from messages a asof join messages b on a.seq > b.seq
select * from messages semi join conversations on conversations.id = messages."conversationId"
select * from messages anti join conversations on conversations.id = messages."conversationId"
select * from messages natural join conversations
select * from conversations c, lateral (select max(seq) as last from messages where "conversationId" = c.id) m
select c.id, (select count(*) from messages m where m."conversationId" = c.id) as n from conversations c
select * from conversations where id in (select "conversationId" from messages)
select * from conversations c where exists (select 1 from messages m where m."conversationId" = c.id)
select * from messages where seq >= all (select seq from messages)
select array(select id from messages order by seq)
with recent as (select * from messages order by seq desc limit 3) select * from recent
with recent as materialized (select * from messages) select r.id from recent r, recent s where r.id = s.id
with a(x) as (select 1), b as (select x + 1 as y from a) select * from a, b
with messages as (select 1 as one) select one from messages
with recursive t(n) as (select 1 union all select n + 1 from t where n < 10) select sum(n) from t
with recursive path(id, names) as (select id, title from conversations union all select c.id, path.names || '/' || c.title from path join conversations c on c.id > path.id) select * from path limit 5
with recursive days(d) as (select date '2024-01-01' union all select (d + interval 1 day)::date from days where d < date '2024-01-10') select * from days
select row_number() over (partition by "conversationId" order by seq), lag(content) over (order by seq), lag(seq, 2, 0) over w from messages window w as (order by seq)
select sum(length(content)) over (order by seq rows between 3 preceding and current row) from messages
select avg(seq) over (order by timestamp range between interval 1 day preceding and current row exclude ties) from messages
select first_value(content) over (partition by role order by seq), ntile(4) over (order by seq), percent_rank() over (order by seq) from messages
select * from messages qualify row_number() over (partition by "conversationId" order by seq desc) = 1
select distinct role from messages
select distinct on ("conversationId") * from messages order by "conversationId", seq desc
select * from messages using sample 50%
select * from messages using sample 10 rows
select * from messages tablesample reservoir(5 rows) repeatable (42)
select * from messages tablesample bernoulli(50%)
select * from messages order by seq desc nulls last limit 2 offset 1
select * from messages order by random() limit 10%
select id from messages union select id from conversations
select id from messages union all by name select id, title from conversations
select id from messages except select id from conversations
select id from messages intersect all select id from messages
values (1, 'a'), (2, 'b')
select * from (values (1, 'a'), (2, 'b')) v(n, t)
pivot messages on role in ('user', 'assistant') using count(*) group by "conversationId"
select * from messages pivot (count(*) as n for role in ('user', 'assistant') group by "conversationId")
select * from (select role, seq from messages) pivot (max(seq) for role in ('user', 'assistant'))
unpivot (select id, role, actor from messages) on role, actor into name what value text
from (select id, role, actor from messages) unpivot (v for k in (role, actor))
select "conversationId", role, count(*) from messages group by grouping sets (("conversationId"), (role), ())
select role, actor, count(*), grouping(role) from messages group by rollup (role, actor)
select role, actor, count(*) from messages group by cube (role, actor)
select list(content order by seq) from messages group by "conversationId"
select string_agg(content, ', ' order by seq), group_concat(role) from messages
select string_agg(distinct role, ', ') from messages
select array_to_string(list_sort(list_distinct(list(role))), ', ') from messages
select list_transform(list(content), lambda x: upper(x)) from messages
select list_filter(list(seq), lambda x: x % 2 = 0), list_reduce(list(seq), lambda a, b: a + b) from messages
select list_reduce(list(content), lambda a, b: a || ' ' || b) from messages
select [upper(x) for x in str_split(content, ' ') if length(x) > 2] from messages
select list_transform(str_split(content, ' '), lambda w, i: w || i) from messages
select list_aggregate([1, 2, 3], 'sum'), list_sum([1, 2]), list_aggregate(['a', 'b'], 'string_agg', '-')
select list_zip([1, 2], ['a', 'b']), list_slice([1, 2, 3], 1, 2), [1, 2, 3][1:2], [1, 2][1], list_contains([1, 2], 2)
select word, count(*) from (select unnest(str_split(content, ' ')) as word from messages) group by all order by 2 desc limit 10
select word, count(*) from messages, unnest(str_split(lower(content), ' ')) as t(word) group by word
select unnest([{'a': 1, 'b': 2}], recursive := true)
select * from unnest([1, 2, 3]) with ordinality
select histogram(seq), mode(role), median(seq), quantile_cont(seq, [0.5, 0.9]), approx_quantile(seq, 0.5) from messages
select percentile_cont(0.5) within group (order by seq) from messages
select arg_max(content, seq), max_by(content, seq), min_by(content, seq, 2), max(seq, 3) from messages
select stddev(seq), var_pop(seq), corr(seq, length(content)), entropy(role), kurtosis(seq) from messages
select approx_count_distinct(content), any_value(role), bool_or(seq > 1), bit_or(seq) from messages
select {'a': 1, 'b': [1, 2]}.b[1], map {'k': 1}['k'], struct_pack(x := 1).x, row(1, 2), (1, 2)
select case role when 'user' then 1 else 2 end, case when seq > 1 then 'x' end, if(seq > 1, 1, 2), coalesce(metadata, '{}'), nullif(role, 'user'), ifnull(metadata, '') from messages
select content like '%a%', content ilike 'A%', content similar to '.*', content ~ '^a', content not like 'x', content glob '*', starts_with(content, 'a'), contains(content, 'b') from messages
select content like 'a!%%' escape '!' from messages
select regexp_replace(content, '[aeiou]', '_', 'g'), regexp_extract(content, '(\w+) (\w+)', 1), regexp_extract_all(content, '\w+'), regexp_matches(content, '\d{4}-\d{2}-\d{2}') from messages
select regexp_extract(content, '(\w+)@(\w+)', ['name', 'host']) from messages
select lower(content), upper(content), trim(content), trim(both 'x' from content), replace(content, 'a', 'bb'), substring(content from 1 for 5), substr(content, 2), left(content, 10), reverse(content), length(content), strlen(content), position('a' in content), split_part(content, ' ', 1), concat(id, role), concat_ws('-', id, role), id || '-' || role from messages
select repeat('ab', 3), lpad(role, 12, '.'), rpad(role, 12, ' '), repeat('*', least(seq, 40)), bar(seq, 0, 100, 20) from messages
select printf('%s is %05d', role, seq), format('{} is {:>8}', role, seq), format('{:.2f}', seq / 3) from messages
select md5(content), sha256(content), hash(id), base64(encode(content)), hex(content) from messages
select levenshtein(role, 'usr'), jaccard(role, 'user'), jaro_winkler_similarity(role, 'user') from messages
select range(5), generate_series(1, 10, 2), list_resize([1], 3, 0)
select * from range(10) r(i)
select * from generate_series(timestamp '2024-01-01', timestamp '2024-01-05', interval 1 day) as t(day)
select day, count(m.id) from generate_series(date '2024-01-01', date '2024-02-01', interval 1 day) d(day) left join messages m on m.timestamp::date = d.day group by day order by day
select seq::varchar, cast(seq as double), try_cast(content as int), seq::decimal(10, 2), '[1,2]'::int[], content::blob, '{"a": 1}'::json, [1, 2]::int[2], 'user'::enum('user', 'assistant') from messages where role = 'user'
select round(seq / 3, 2), seq // 3, seq % 3, abs(-seq), greatest(seq, 1), least(seq, 2), sqrt(seq), 2 ** 3, pow(2, 3), ln(1), floor(1.5), ceil(1.5), -seq, +seq from messages
select try(content::int) from messages
select content collate nocase from messages order by content collate noaccent
select * from messages where (role, actor) in (('user', 'a'), ('assistant', 'agent:x'))
select * from messages where role in ('user', 'assistant') and not seq is null and seq is distinct from 2 or false
select #1 from messages
select seq as a, a + 1 as b, a * b as c from messages
select current_date, current_timestamp, now(), today(), uuid(), random(), typeof(1), pi()
select c.title, l.names, l.names[1], coalesce(l.text, '-'), len(l.names), l.names from conversations c left join (select "conversationId" as id, list(content) as names, string_agg(content) as text from messages group by all) l using (id)
select upper(w), count(*) from (select list(content) as l from messages group by role), unnest(l) as t(w) group by all
select upper(s), array_to_string(l, ', ') from (select string_agg(content) as s, list(content) as l from messages group by role)
select strftime(d, '%a'), count(m.id) from (with recursive days(d) as (select date '2024-01-01' union all select (d + interval 1 day)::date from days where d < date '2024-01-10') select * from days) left join messages m on m.timestamp::date = d group by all
select c.id, array(select content from messages m where m."conversationId" = c.id order by seq) from conversations c
select array_to_string(array(select content from messages order by seq), ' ')
select e.seq, e.name, a.reason from events e left join anomalies a using (seq)
select * from "agentState"
""".strip().splitlines()


@pytest.mark.parametrize("sql", ALLOWED)
def test_what_an_analyst_asks_runs(sandbox: Sandbox, sql: str) -> None:
    sandbox.run(sql)


REASONS = {
    "what is no query": ("Only a SELECT", "PIVOT needs"),
    "more than one": ("Only one statement", "Only a SELECT"),
}

REFUSED = {
    "what is no query": """
delete from messages
insert into messages select * from messages
update messages set content = ''
drop table messages
create table x as select 1
create view x as select 1
create macro lower(x) as 'gone'
create sequence s
alter table messages add column x int
truncate messages
copy messages to '/tmp/x.csv'
copy (select 1) to '/tmp/x.csv'
export database '/tmp/x'
attach '/tmp/x.duckdb' as x
detach x
use memory
set memory_limit = '100GB'
set variable x = 1
reset memory_limit
pragma database_list
pragma memory_limit = '100GB'
call pragma_version()
load httpfs
install httpfs
checkpoint
force checkpoint
vacuum
analyze
begin transaction
commit
rollback
prepare x as select 1
execute x
explain select 1
explain analyze select 1
merge into messages using messages m on false when not matched then insert values (1)
comment on table messages is 'x'
pivot messages on role
pivot messages on role using count(*)
pivot messages on role in (select role from messages) using count(*)
""",
    "more than one": """
select 1; select 2
select 1; drop table messages
select 1; delete from messages; select 2
;select 1; select 2
""",
    "SHOW, DESCRIBE and SUMMARIZE": """
show tables
show all tables
show databases
describe messages
describe
summarize messages
from (show all tables)
from (show tables)
from (describe messages)
from (summarize messages)
select * from (select * from (show databases))
with x as (from (show all tables)) from x
select (select count(*) from (show all tables))
""",
    "changes data": """
with x as (delete from messages returning *) select * from x
with x as (delete from messages) select 1
with x as (insert into messages select * from messages returning *) from x
with x as (update messages set content = '' returning *) from x
select * from (with x as (delete from messages returning *) select * from x)
select (with x as (delete from messages returning id) select max(id) from x)
select 1 union (with x as (delete from messages returning 1) select * from x)
with recursive t as (with x as (delete from messages returning 1 as i) select i from x union all select 2) from t
""",
    "writes files": """
with x as (copy messages to '/tmp/x.csv') select 1
""",
    "There is no table": """
select * from agentstore_meta
select * from "AgentStore_Meta"
select * from nothing
select * from 'messages.csv'
select * from '/etc/passwd'
select * from "/etc/passwd"
select * from 'https://example.com/x.parquet'
from 'x.json'
select * from sqlite_master
select * from duckdb_tables
select * from pg_tables
select * from duckdb_settings
with x as (select 1), y as (with z as (select 2) select * from z) select * from z
select * from (with z as (select 2) select * from z) z1, z
with agentstore_meta as (select * from agentstore_meta) select * from agentstore_meta
with recursive agentstore_meta as (select * from agentstore_meta union all select 'a', 'b') from agentstore_meta
with x as (select * from y), y as (select 1) select * from x
select (select max(value) from agentstore_meta)
select * from messages where exists (select 1 from agentstore_meta)
select * from messages order by (select max(value) from agentstore_meta)
select * from messages limit (select count(*) from agentstore_meta)
select count(*) filter ((select true from agentstore_meta)) from messages
select sum(seq) over (order by (select max(value) from agentstore_meta)) from messages
select * replace ((select max(value) from agentstore_meta) as id) from messages
select list_transform([1], lambda x: (select max(value) from agentstore_meta))
select case when true then (select max(value) from agentstore_meta) end
select * from messages m join messages n on m.id = (select max(value) from agentstore_meta)
select * from (values ((select max(value) from agentstore_meta)))
select * from unnest((select list(value) from agentstore_meta))
select distinct on ((select max(value) from agentstore_meta)) id from messages
select id from messages group by id, (select max(value) from agentstore_meta)
select list(id order by (select max(value) from agentstore_meta)) from messages
from agentstore_meta pivot (count(*) for key in ('a'))
from messages pivot (max((select max(value) from agentstore_meta)) for role in ('a'))
unpivot agentstore_meta on key, value
select id from messages qualify (select true from agentstore_meta)
select coalesce((select max(value) from agentstore_meta), 'x')
select [(select max(value) from agentstore_meta)]
select cast((select max(value) from agentstore_meta) as json)
select id from messages union select value from agentstore_meta
select id in (select value from agentstore_meta) from messages
""",
    "alone, without what stands before it": f"""
select * from {OTHER}.messages
select * from {OTHER}.main.messages
select * from {OWN}.messages
select * from main.messages
select * from memory.main.messages
select * from system.information_schema.tables
select * from information_schema.tables
select * from pg_catalog.pg_tables
select * from temp.messages
select content::{OTHER}.x from messages
with recursive t(n) as (select 1 union all select n + 1 from recurring.t) from t
""",
    "out of reach": """
select * from duckdb_tables()
select * from duckdb_databases()
select * from duckdb_settings()
select * from duckdb_secrets()
select * from duckdb_logs()
select * from pragma_table_info('messages')
select * from pragma_version()
select * from pg_timezone_names()
select current_setting('memory_limit')
select getenv('HOME')
select getvariable('x')
select nextval('s'), currval('s')
""",
    "files cannot be": """
select * from read_csv('/etc/passwd')
select * from read_csv_auto('/etc/passwd')
select * from read_text('/etc/passwd')
select * from read_blob('/etc/passwd')
select * from read_json('/etc/passwd')
select * from read_parquet('/etc/passwd')
select * from read_duckdb('/etc/passwd')
select * from parquet_scan('x')
select * from parquet_metadata('x')
select * from sniff_csv('/etc/passwd')
select * from glob('/*')
select glob('/*')
""",
    "is not available here": """
select * from query('select 1')
select * from query_table('messages')
select * from query('select * from agentstore_meta')
select * from repeat(1, 10)
select * from repeat_row(1, num_rows = 1000000000)
select * from test_all_types()
select * from summary(messages)
select * from seq_scan('messages')
select * from arrow_scan(1, 2, 3)
select * from pandas_scan(1)
select * from json_execute_serialized_sql('x')
select * from json_each('[1]')
select * from checkpoint()
select json_serialize_sql('select 1')
select json_deserialize_sql('x')
select json_contains('[[1]]', '1')
select json_pretty(content) from messages
select content::json::variant from messages
select content::variant from messages
select '1'::bignum
select content::nothing from messages
select * from messages at (version => 1)
select * from messages at (timestamp => now())
select set_bit('1'::bit, 0, 1)
select txid_current()
select version()
select pg_sleep(100)
select sleep_ms(100000)
select setseed(0.5)
select write_log('x')
select error('x')
select invoke(lambda x: x, 1)
select pg_typeof(1)
select current_catalog
select current_database()
select current_schema()
select current_query()
select which_secret('x', 'y')
with recursive t(a, b) using key (a) as (select 1, 2 union select a, b from t) from t
""",
    "without anything before its name": """
select main.lower('A')
select system.main.lower('A')
select content.lower() from messages
select * from system.main.duckdb_tables()
""",
    "written out": """
select repeat('x', seq) from messages
select repeat('x', ?)
select len(repeat('x', (select max(seq) from messages)))
select lpad('x', seq::int) from messages
select rpad('x', 10 ** 9)
select list_resize([1], seq) from messages
select range(seq) from messages
select printf(content, 1) from messages
select printf('%100000000d', 1)
select printf('%*d', 100000000, 1)
select format('{:100000000}', 1)
select format('{:{}}', 1, 100000000)
select regexp_replace(content, 'a', content, 'g') from messages
select array_to_string([content], content) from messages
select list_aggregate([1], role) from messages
select replace(content, 'a', content) from messages
select from_json(content, role) from messages
""",
    "of unknown length": """
select generate_series(timestamp, now(), interval 1 microsecond) from messages
select range(1, seq) from messages
select len(range((select 1000000000), 2000000000))
""",
    "too large": """
select len(repeat('x', 1000000000))
select len(repeat(repeat('x', 1000), 1000))
select repeat(content, 1000) from messages
select len(range(200000000))
select len(range(0, 1000000000, 1))
select len(range(-9223372036854775807, 9223372036854775807))
select len(generate_series(1, 200000000))
select lpad('x', 1000000000, 'y')
select list_resize([1], 50000000, 0)
select replace('aaaaaaaaaa', 'a', repeat('b', 99999))
select replace(replace(replace(replace(content, 'a', 'aaaaaaaaaa'), 'a', 'aaaaaaaaaa'), 'a', 'aaaaaaaaaa'), 'a', 'aa') from messages
select list_transform(range(5000), lambda x: content) from messages
select list_transform(range(1000), lambda x: range(1000))
select [x for x in range(1000000)]
select null::int[100000]
select null::int[1000][1000]
with a as (select content || content as x from messages), b as (select x || x as x from a), c as (select x || x as x from b), d as (select x || x as x from c), e as (select x || x as x from d), f as (select x || x as x from e), g as (select x || x as x from f), h as (select x || x as x from g) select x || x from h
select 'x' || content as a, a || a as b, b || b as c, c || c as d, d || d as e, e || e as f, f || f as g, g || g as h, h || h as i from messages
select x || x || x || x || x || x || x || x || x || x || x || x || x || x || x || x || x from (select string_agg(a.content) as x from messages a, messages b)
select to_json(to_json(to_json(to_json(content)))) from messages
select hex(hex(hex(content))) from messages
select bin(bin(content)) from messages
select concat(*columns(*), *columns(*), *columns(*)) from (select content as a, a || a as b, b || b as c, c || c as d, d || d as e from messages)
""",
    "product of two values": """
select list_transform(str_split(content, ' '), lambda x: content) from messages
select list_transform(l, lambda x: list_transform(l, lambda y: 1)) from (select list(seq) as l from messages)
select list_transform(l, lambda x: l) from (select list(seq) as l from messages)
""",
    "copied for each row": """
select len(x || i) from (select string_agg(content) as x from messages), range(2048) t(i)
select to_json(list_concat(x, [i])) from (select list(seq) as x from messages), range(2048) t(i)
select x[1:2] from (select list(seq) as x from messages), messages
select upper(x) from (select string_agg(content) as x from messages) join messages on true
select upper(x) from messages left join (select string_agg(content) as x from messages) on true
select lower((select string_agg(content) from messages)) from messages
select array_to_string(array(select content from messages), ',') from messages
select (select max(g.x || m.id) from messages m) from (select string_agg(content) as x from messages) g
select upper(x), unnest(range(2048)) from (select string_agg(content) as x from messages)
select upper(y) from (select x as y, unnest(range(2048)) as i from (select string_agg(content) as x from messages))
select upper(y) from (select first_value(x) over () as y from (select string_agg(content) as x from messages group by role))
with g as (select string_agg(content) as x from messages), h as (select g.x from g, messages) select x || 'a' from h
select x::json from (select list(seq) as x from messages), messages
select [y || 'a' for y in x] from (select list(content) as x from messages), messages
select list_filter(x, lambda y: y > 1) from (select list(seq) as x from messages), messages
select upper(w) from (select list(content) as x from messages), unnest(x) t(w), messages
select * from messages m, lateral (select upper(x) from (select string_agg(content) as x from messages) g, range(2)) l
with recursive t(x) as (select 'a' union all select x || 'b' from t) select upper(t.x) from t, messages
with recursive t(x) as (select string_agg(content) from messages union all select x || 'b' from t, range(2048)) select 1 from t
""",
    "but not multiply it": """
with recursive t(x) as (select 'a' union all select x || x from t) select max(len(x)) from t
with recursive t(x) as (select [1] union all select list_concat(x, x) from t) select 1 from t
with recursive t(x) as (select 'a' union all select concat(x, 'b', x) from t) select 1 from t
with recursive t(x) as (select 'a' union all select concat(t.x, u.x) from t, t u) select 1 from t
with recursive t(x) as (select 'a' union all select y || y from (select x as y from t)) select 1 from t
with recursive t(x) as (select 'a' union all select list_reduce([x, x], lambda a, b: a || b) from t) select 1 from t
with recursive t(x, y) as (select 'a', 'b' union all select x || y, y || x from t) select 1 from t
select list_reduce(list_transform(range(40), lambda x: 'a'), lambda a, b: a || a)
select list_reduce([[1], [2]], lambda a, b: list_concat(a, a))
select list_reduce(range(100), lambda a, b: a || a, 'x')
""",
    "step before": """
with recursive t(x) as (select 'a' union all select list_reduce(['b'], lambda a, b: x, 'c') || x from t) select 1 from t
with recursive t(x) as (select 'a' union all (with recursive u(y) as (select x from t union all select 'b') select y from u)) select 1 from t
""",
    "descend": """
select json_extract(content, '$..*') from messages
select content -> '$..a' from messages
select content ->> '$..a' from messages
select json_extract(content, ['$.a', '$..a']) from messages
""",
    "not as a computation": """
select json_extract(content, '$.' || '.*') from messages
select content ->> concat('$', '..*') from messages
""",
    "regular expression": """
select regexp_matches(content, '(a|b|c|w|o|r|d| ){1,50}(a|b|c|w|o|r|d| ){1,50}(a|b|c|w|o|r|d| ){1,50}') from messages
select regexp_matches(content, '((a{1,30}){1,30}){1,30}') from messages
select content ~ '(x{100}){100}' from messages
select content similar to '(x{100}){100}' from messages
select regexp_extract(content, content) from messages
select str_split_regex(content, content) from messages
select regexp_matches(content, 'a' || 'b') from messages
""",
    "takes a lambda": """
select list_transform([1], x -> x + 1)
select list_transform([1], 2)
select list_filter([1], 'x')
""",
    "can only be an argument": """
select lambda x: x
select lower(lambda x: x)
""",
    "nested": f"""
select {"-" * 1}{"(" * 1}{" - ".join(["1"] * 120)})
select {"(select " * 60}1{")" * 60}
select {"[" * 110}1{"]" * 110}
select list_transform([1], lambda a: list_transform([1], lambda b: list_transform([1], lambda c: list_transform([1], lambda d: d))))
""",
    "grouping sets": """
select count(*) from messages group by cube(id, role, content, seq, actor, metadata, timestamp, "conversationId", length(id))
""",
    "columns": f"""
with a as (select {", ".join(["seq"] * 1500)} from messages), b as (select * from a x, a y), c as (select * from b x, b y) select count(*) from c
select {", ".join(["*"] * 500)} from messages
""",
    "tables and subqueries": f"""
with a0 as (select 1 as x), {", ".join(f"a{i} as (select p.x from a{i - 1} p, a{i - 1} q)" for i in range(1, 12))} select count(*) from a11
""",
    "ANDs and ORs": f"""
select * from messages where {" and ".join(f"(seq <> {i} or id is null)" for i in range(1100))}
""",
    "distinct": f"""
select {", ".join(f"count(distinct seq + {i})" for i in range(150))} from messages
""",
    "longer than": f"""
select '{"x" * 100_000}'
""",
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_it_must_not_do_is_refused_before_it_runs(sandbox: Sandbox, why: str) -> None:
    before = sandbox.fingerprint()
    for sql in REFUSED[why].strip().splitlines():
        with pytest.raises(QueryRefused) as refused:
            check(sandbox.cursor, sql, TABLES)
        said = str(refused.value)
        words = REASONS.get(why, (why,))
        assert any(word in said for word in words), (sql[:200], said)
        assert OTHER not in said
    assert sandbox.fingerprint() == before


@pytest.mark.parametrize(
    "sql",
    [
        "",
        " ",
        "-- nothing",
        ";",
        "selec 1",
        "select",
        "select 1 where",
        "select * from",
        "select 'a",
        "select 1 )",
        "select nul \0",
        "select '\ud83d'",
        "select $1, $x",
        "create user x",
        "select * from messages where (",
    ],
)
def test_what_is_no_sql_fails_with_a_message(sandbox: Sandbox, sql: str) -> None:
    with pytest.raises((QueryFailed, QueryRefused)) as failed:
        check(sandbox.cursor, sql, TABLES)
    assert failed.value.message


def test_a_syntax_error_says_where(sandbox: Sandbox) -> None:
    with pytest.raises(QueryFailed, match="line 2, character 13"):
        check(sandbox.cursor, "select 1\nwhere selec selec", TABLES)


def test_an_unknown_table_is_refused_with_those_that_there_are(sandbox: Sandbox) -> None:
    with pytest.raises(QueryRefused, match=r"conversationMemory.*messages"):
        check(sandbox.cursor, "select * from mesages", TABLES)


def test_names_are_compared_without_case(sandbox: Sandbox) -> None:
    check(sandbox.cursor, "select COUNT(*), Upper(CONTENT) from MESSAGES, AgentState", TABLES)


def test_a_hidden_table_is_never_what_a_check_lets_through(sandbox: Sandbox) -> None:
    """DuckDB's own list of a statement's tables agrees with the check's."""
    for sql in ALLOWED:
        check(sandbox.cursor, sql, TABLES)
        try:
            named = sandbox.cursor.get_table_names(sql)
        except duckdb.BinderException:  # it knows no columns
            continue
        assert {name.lower() for name in named} <= {name.lower() for name in TABLES}, sql


def test_the_lists_name_no_function_twice() -> None:
    kinds = [
        allowed.SMALL,
        allowed.STEADY,
        allowed.GROWING,
        allowed.SPECIAL,
        allowed.LAMBDAS,
        allowed.COLLECTING,
    ]
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))
    assert frozenset().union(*kinds) == allowed.FUNCTIONS


@pytest.mark.parametrize(
    ("expression", "least", "most"),
    [
        ("abc", 3, 3),
        ("a{3}", 3, 3),
        ("(ab){10}", 20, 40),
        ("((a{10}){10}){10}", 1_000, 2_000),
        ("[a-z0-9]{1,63}", 63, 400),
        (r"\d{4}-\d{2}-\d{2}", 10, 30),
        ("[]{10}]{2}", 2, 12),
        ("a{,5}b{x}", 5, 12),
        ("(((", 0, 5),
        (")))", 1, 5),
        ("{5}", 0, 10),
        ("a{99999}{99999}", 10**9, 10**10),
        ("[", 0, 5),
        ("\\", 0, 5),
    ],
)
def test_repetitions_count_as_if_they_were_written_out(expression: str, least: int, most: int) -> None:
    assert least <= steps(expression) <= most
