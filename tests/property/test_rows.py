"""Every field of a task survives its row."""

from __future__ import annotations

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from meshd.domain.values import (
    AttemptState,
    Failure,
    LabelCondition,
    LabelOperator,
    OutcomeReason,
    Requirements,
    RetryPolicy,
    Strategy,
    Task,
    TaskSpec,
    TaskState,
)
from meshd.store.rows import task_from_row, task_to_row

number = st.integers(0, 2**62)
text = st.text(max_size=20)
words = st.frozensets(text, max_size=3)
condition = st.builds(LabelCondition, text, st.sampled_from(LabelOperator), st.tuples(text))
failure = st.none() | st.builds(Failure, text, text, st.booleans())

specs = st.builds(
    TaskSpec,
    text,
    text,
    st.just(b""),
    st.binary(min_size=16, max_size=16),
    st.builds(Requirements, words, st.tuples(condition), words, st.tuples()),
    st.integers(0, 9),
    st.sampled_from(Strategy),
    number,
    number,
    number,
    st.builds(RetryPolicy, number, number, st.floats(1, 10), number),
    st.integers(1, 100),
    st.none() | st.dictionaries(text, text, min_size=1, max_size=3),
    text,
    text,
    text,
    st.just(False),
)
tasks = st.builds(
    Task,
    number,
    text,
    specs,
    st.integers(0, 2**64 - 1),
    st.sampled_from(TaskState),
    number,
    text,
    number,
    number,
    number,
    number,
    st.sampled_from(OutcomeReason),
    number,
    number,
    number,
    number,
    number,
    st.sampled_from(OutcomeReason),
    number,
    failure,
    number,
    st.sampled_from(AttemptState),
    text,
    text,
    number,
    number,
)
VOLATILE = {"accept_ms", "fence", "progress", "declined", "spec"}


@given(tasks)
def test_a_task_survives_its_row(task: Task) -> None:
    back = task_from_row(task_to_row(task))
    for field in fields(Task):
        if field.name not in VOLATILE:
            assert getattr(back, field.name) == getattr(task, field.name), field.name
    for field in fields(TaskSpec):
        assert getattr(back.spec, field.name) == getattr(task.spec, field.name), field.name
