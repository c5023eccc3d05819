"""The oracle must be able to go red: a sound history passes, and each forged one breaks exactly its rule."""

from collections.abc import Callable

import pytest

from tests.faults.oracle import NOT_FOUND, Execution, History, Read, Rule, Submit, judge


def sound() -> History:
    """Two clients; one submit acknowledged, one unknown that happened, one unknown that did not."""
    return History(
        submits=[
            Submit("acked", "a", ended_s=1.0, acked=True),
            Submit("unknown-taken", "a", ended_s=1.0, acked=False),
            Submit("unknown-gone", "b", ended_s=1.0, acked=False),
        ],
        reads=[
            Read("acked", "a", 2.0, 2.1, "RUNNING"),
            Read("acked", "b", 3.0, 3.1, "SUCCEEDED", b"one"),
            Read("acked", "a", 9.0, 9.1, "SUCCEEDED", b"one"),
            Read("unknown-taken", "a", 9.0, 9.1, "SUCCEEDED", b"two"),
            Read("unknown-gone", "b", 9.0, 9.1, NOT_FOUND),
        ],
        executions=[
            Execution("acked", "w1", 1, b"lost with its worker"),
            Execution("acked", "w2", 2, b"one"),
            Execution("unknown-taken", "w1", 3, b"two"),
        ],
    )


def test_sound_history_passes() -> None:
    assert judge(sound()) == []


def test_read_that_overlaps_the_first_sight_of_an_end_may_be_older() -> None:
    history = sound()
    history.reads.append(Read("acked", "c", 3.05, 3.2, "RUNNING"))
    assert judge(history) == []


def test_read_that_overlaps_its_submit_may_find_nothing() -> None:
    history = sound()
    history.reads.append(Read("acked", "c", 0.9, 1.2, NOT_FOUND))
    assert judge(history) == []


def forget_acknowledged(history: History) -> None:
    history.reads[2] = Read("acked", "a", 9.0, 9.1, NOT_FOUND)
    del history.reads[1]


def forget_what_was_seen(history: History) -> None:
    history.reads.append(Read("unknown-taken", "b", 10.0, 10.1, NOT_FOUND))


def never_look(history: History) -> None:
    history.submits.append(Submit("unread", "a", 1.0, acked=True))


def look_too_early(history: History) -> None:
    history.submits.append(Submit("early", "a", 1.0, acked=True))
    history.reads.append(Read("early", "a", 0.5, 1.5, "QUEUED"))


def never_end(history: History) -> None:
    history.submits.append(Submit("stuck", "a", 1.0, acked=True))
    history.reads.append(Read("stuck", "a", 9.0, 9.1, "QUEUED"))


def change_output(history: History) -> None:
    history.executions.append(Execution("acked", "w1", 4, b"other"))
    history.reads.append(Read("acked", "b", 10.0, 10.1, "SUCCEEDED", b"other"))


def change_state(history: History) -> None:
    history.reads.append(Read("acked", "b", 10.0, 10.1, "FAILED"))


def take_back(history: History) -> None:
    history.reads.insert(2, Read("acked", "b", 4.0, 4.1, "QUEUED"))


def invent_result(history: History) -> None:
    del history.executions[2]


def swap_results(history: History) -> None:
    history.executions[2] = Execution("acked", "w1", 3, b"two")


def lose_output(history: History) -> None:
    history.reads.append(Read("acked", "b", 10.0, 10.1, "SUCCEEDED", b""))


def reuse_fence(history: History) -> None:
    history.executions[0] = Execution("acked", "w1", 2, b"late")


@pytest.mark.parametrize(
    ("forge", "rules"),
    [
        (forget_acknowledged, {Rule.LOST}),
        (forget_what_was_seen, {Rule.LOST, Rule.TAKEN_BACK}),
        (never_look, {Rule.UNREAD}),
        (look_too_early, {Rule.UNREAD}),
        (never_end, {Rule.NEVER_ENDED}),
        (change_output, {Rule.SECOND_OUTCOME}),
        (change_state, {Rule.SECOND_OUTCOME}),
        (take_back, {Rule.TAKEN_BACK}),
        (invent_result, {Rule.FOREIGN_RESULT}),
        (swap_results, {Rule.FOREIGN_RESULT}),
        (lose_output, {Rule.SECOND_OUTCOME, Rule.FOREIGN_RESULT}),
        (reuse_fence, {Rule.FENCE_REUSED}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_forged_history_is_caught(forge: Callable[[History], None], rules: set[Rule]) -> None:
    history = sound()
    forge(history)
    assert {violation.rule for violation in judge(history)} == rules
