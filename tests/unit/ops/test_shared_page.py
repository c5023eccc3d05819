"""A page that costs something is made once for all who ask for it at about the same time."""

import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest

from meshd.ops.http_port import Page, text_page
from meshd.ops.shared_page import KEEP_S, MAX_WAITING, SharedPage


class Clock:
    mono = 100.0

    def __call__(self) -> float:
        return self.mono


def test_it_is_kept_for_a_second() -> None:
    clock, made = Clock(), iter(range(10))
    page = SharedPage(lambda: text_page(200, str(next(made))), clock)
    assert [page().body, page().body] == [b"0\n", b"0\n"]
    clock.mono += KEEP_S
    assert page().body == b"1\n"
    assert {page().status for _ in range(2 * MAX_WAITING)} == {200}, "those who have it do not wait any more"


def test_who_asks_while_it_is_made_gets_that_one_and_few_may_wait() -> None:
    begun, go_on = threading.Event(), threading.Event()
    made = iter(range(10))

    def render() -> Page:
        begun.set()
        assert go_on.wait(5)
        return text_page(200, str(next(made)))

    page = SharedPage(render, Clock())
    with ThreadPoolExecutor(MAX_WAITING + 1) as threads:
        first = threads.submit(page)
        assert begun.wait(5)
        others = [threads.submit(page) for _ in range(MAX_WAITING)]
        # Whichever comes last of these is one too many; the others wait.
        (refused,), _ = wait(others, 5, FIRST_COMPLETED)
        assert refused.result().status == 503
        go_on.set()
        answers = [each.result() for each in [first, *others]]
    assert sorted(answer.status for answer in answers) == [200] * MAX_WAITING + [503]
    assert {answer.body for answer in answers if answer.status == 200} == {b"0\n"}


def test_after_a_failure_it_is_made_anew() -> None:
    pages = iter([None, text_page(200, "ok")])

    def render() -> Page:
        page = next(pages)
        if page is None:
            raise ValueError("broken")
        return page

    page = SharedPage(render, Clock())
    with pytest.raises(ValueError, match="broken"):
        page()
    assert page().status == 200
