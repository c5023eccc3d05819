"""Every durable field survives its row and the database, and stands in the column of its name."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Table, select

from meshd.domain.drains import AgentSelector, Drain
from meshd.domain.records import AuditRecord, IdentityRecord, JoinTokenRecord, Writes
from meshd.domain.values import (
    DEFAULT_RETRY,
    Agent,
    AgentSpec,
    AgentType,
    AttemptState,
    EndedAttempt,
    Failure,
    Health,
    LabelCondition,
    LabelOperator,
    OutcomeReason,
    Requirements,
    RetryPolicy,
    Session,
    Strategy,
    Task,
    TaskSpec,
    TaskState,
)
from meshd.store import hot, opening, rows, schema
from meshd.store.compiled import compile_sql

numbers = st.integers(0, 2**63 - 1)
texts = st.text(max_size=20)
binaries = st.binary(max_size=32)
words = st.frozensets(texts, max_size=3)
word_lists = st.lists(texts, max_size=3).map(tuple)
labels = st.dictionaries(texts, texts, max_size=3)
conditions = st.lists(
    st.builds(LabelCondition, texts, st.sampled_from(LabelOperator), word_lists), max_size=2
).map(tuple)
failures = st.none() | st.builds(Failure, texts, texts, st.booleans())
retries = st.just(DEFAULT_RETRY) | st.builds(RetryPolicy, numbers, numbers, st.floats(1, 10), numbers)
NOT_DURABLE = {"accept_ms", "taken", "fence", "progress", "declined", "live"}


@st.composite
def specs(draw: st.DrawFn) -> TaskSpec:
    task_type = draw(texts)
    asks = draw(st.none() | st.builds(Requirements, words, conditions, words, conditions))
    seldom = st.just(0) | numbers
    return TaskSpec(
        task_id=draw(texts),
        task_type=task_type,
        payload=b"",
        digest=draw(binaries),
        requirements=asks or Requirements(frozenset((task_type,))),
        priority=draw(st.integers(0, 9)),
        strategy=draw(st.sampled_from(Strategy)),
        timeout_ms=draw(seldom),
        queue_timeout_ms=draw(seldom),
        execution_timeout_ms=draw(seldom),
        retry=draw(retries),
        max_losses=draw(st.just(5) | st.integers(1, 100)),
        labels=draw(st.none() | labels),
        context_id=draw(texts),
        parent_task_id=draw(texts),
        traceparent=draw(texts),
        default_requirements=asks is None,
    )


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    of_type = {
        "int": numbers,
        "str": texts,
        "TaskSpec": specs(),
        "TaskState": st.sampled_from(TaskState),
        "OutcomeReason": st.sampled_from(OutcomeReason),
        "AttemptState": st.sampled_from(AttemptState),
    }
    values: dict[str, st.SearchStrategy[Any]] = {"failure": failures}
    for field in fields(Task):
        if field.name not in (*NOT_DURABLE, *values):
            # Compiled, a field knows its type; otherwise the type's name.
            name = field.type if isinstance(field.type, str) else field.type.__name__
            values[field.name] = of_type[name]
    task = Task(**{name: draw(value) for name, value in values.items()})
    task.incarnation = draw(st.integers(0, 2**64 - 1))
    return task


@st.composite
def agents(draw: st.DrawFn) -> Agent:
    spec = AgentSpec(
        draw(texts),
        draw(st.sampled_from(AgentType)),
        draw(texts),
        draw(words),
        draw(labels),
        draw(texts),
        draw(st.integers(0, 65535)),
        draw(texts),
        *(draw(numbers) for _ in range(3)),
    )
    health = draw(st.sampled_from(Health))
    counts = [draw(numbers) for _ in range(5)]
    agent = Agent(draw(texts), spec, draw(numbers), health, draw(numbers), draw(texts), None, *counts)
    if draw(st.booleans()):
        session_id = draw(st.text(min_size=1, max_size=20))
        agent.session = Session(
            session_id, agent, draw(binaries), draw(binaries), draw(numbers), draw(numbers)
        )
    return agent


def an_empty_database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    opening._create(connection)
    return connection


DATABASE = an_empty_database()


def stored(table: Table, *commits: Writes) -> tuple[Any, ...]:
    """Return the table's one row after these commits."""
    DATABASE.execute("BEGIN")
    try:
        for writes in commits:
            hot.write(DATABASE, hot.snapshot(writes))
        (row,) = DATABASE.execute(compile_sql(select(table))[0]).fetchall()
    finally:
        DATABASE.execute("ROLLBACK")
    return tuple(row)


def assert_equal(one: object, other: object, names: list[str]) -> None:
    for name in names:
        found, expected = getattr(one, name), getattr(other, name)
        assert found == expected, name
        assert type(found) is type(expected), name


def slots(kind: type, *without: str) -> list[str]:
    return [field.name for field in fields(kind) if field.name not in without]


def assert_same_task(found: Task, task: Task) -> None:
    assert_equal(found, task, slots(Task, "spec", *NOT_DURABLE))
    assert_equal(found.spec, task.spec, slots(TaskSpec))


@given(tasks())
def test_a_task_comes_back(task: Task) -> None:
    row = stored(schema.tasks, Writes(new_tasks={task.key: task}))
    assert_same_task(rows.task_from_row(row), task)
    for column, value in zip(schema.tasks.c, row, strict=True):
        if column.name != "incarnation" and not column.name.endswith("_json"):
            assert value == getattr(task, column.name, getattr(task.spec, column.name, None)), column.name


@given(tasks(), tasks())
def test_a_changed_task_comes_back(first: Task, task: Task) -> None:
    """What never changes is taken from the first; everything else must follow."""
    task.key = first.key
    task.spec = first.spec
    never = "namespace incarnation submit_ms submitter payload_bytes deadline_ms queue_deadline_ms"
    for name in never.split():
        setattr(task, name, getattr(first, name))
    writes = Writes(new_tasks={first.key: first}), Writes(changed_tasks={task.key: task})
    assert_same_task(rows.task_from_row(stored(schema.tasks, *writes)), task)


@given(agents(), agents())
def test_an_agent_comes_back_as_last_written(first: Agent, agent: Agent) -> None:
    agent.namespace, agent.spec.agent_id = first.namespace, first.spec.agent_id
    key = (agent.namespace, agent.spec.agent_id)
    found = rows.agent_from_row(
        stored(schema.agents, Writes(agents={key: first}), Writes(agents={key: agent}))
    )
    assert_equal(found, agent, slots(Agent, "spec", "session"))
    assert_equal(found.spec, agent.spec, slots(AgentSpec))
    assert (found.session is None) == (agent.session is None)
    if found.session is not None and agent.session is not None:
        assert found.session.agent is found
        assert found.session.ttl_only
        assert_equal(found.session, agent.session, slots(Session, "agent", "ttl_only"))


attempts = st.builds(
    EndedAttempt, numbers, numbers, texts, st.sampled_from(AttemptState), numbers, numbers, numbers, failures
)
join_tokens = st.builds(
    JoinTokenRecord, binaries, texts, texts, st.integers(1, 6), word_lists, numbers, numbers, numbers, texts
)
identities = st.builds(
    IdentityRecord, texts, texts, st.integers(1, 6), word_lists, binaries, texts, numbers, numbers
)
audit = st.builds(
    AuditRecord,
    *(
        texts,
        numbers,
        numbers,
        texts,
        texts,
        texts,
        texts,
        st.booleans(),
        texts,
        numbers,
        binaries,
        binaries,
        binaries,
    ),
)


drains = st.builds(
    Drain,
    texts,
    texts,
    st.builds(
        AgentSelector,
        texts,
        conditions,
        st.one_of(st.none(), st.sampled_from(AgentType)),
    ),
    texts,
    texts,
    numbers,
    numbers,
)


@given(drains, drains)
def test_a_drain_comes_back_as_last_written(first: Drain, drain: Drain) -> None:
    key = (drain.namespace, drain.drain_id)
    first = first._replace(namespace=drain.namespace, drain_id=drain.drain_id)
    row = stored(schema.drains, Writes(drains={key: first}), Writes(drains={key: drain}))
    assert rows.drain_from_row(row) == drain


def comes_back(record: Any, table: Table, writes: Writes, from_row: Callable[[Any], Any]) -> None:
    row = stored(table, writes)
    found = from_row(row[1:] if table is schema.audit else row)
    assert found == record
    assert [type(value) for value in found] == [type(value) for value in record]


@given(attempts, join_tokens, identities, audit)
def test_records_come_back(
    attempt: EndedAttempt, join_token: JoinTokenRecord, identity: IdentityRecord, record: AuditRecord
) -> None:
    comes_back(attempt, schema.attempts, Writes(attempts=[attempt]), rows.attempt_from_row)
    join_writes = Writes(join_tokens={join_token.token_hash: join_token})
    comes_back(join_token, schema.join_tokens, join_writes, rows.join_token_from_row)
    identity_writes = Writes(identities={(identity.namespace, identity.agent_id): identity})
    comes_back(identity, schema.identities, identity_writes, rows.identity_from_row)
    comes_back(record, schema.audit, Writes(audit=[record]), rows.audit_from_row)
