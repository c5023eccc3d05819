"""Running handlers: what a handler sees of its task, and where it runs.

Rule: handlers never run on the gRPC thread. Async ones run as tasks of the user's loop, sync ones in daemon threads,
so that one which never ends cannot keep the process alive. However a handler ends, its report goes out and its slot is
free: `reports.py` says what the report is.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeGuard, cast

from agentmesh import tracing
from agentmesh.errors import InvalidRequest
from agentmesh.reports import Fail, NonRetryable, Result, TaskCancelled, cut_text, report_of
from agentmesh.session import Attempt
from agentmesh.v1.session_pb2 import AgentFrame, CancelReason

logger = logging.getLogger("agentmesh")

MAX_OUTPUT_CHUNK_BYTES = 64 * 1024
_MAX_PROGRESS_BYTES = 1024


class Uplink:
    """Carries what handlers say to the gRPC thread: any thread appends, one wake-up fetches all."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: list[Report] = []

    def post(self, report: Report) -> None:
        """Queues a report. Callable from any thread."""
        with self._lock:
            self._waiting.append(report)
            is_first = len(self._waiting) == 1
        if is_first:
            self._wake()

    def take_all(self) -> list[Report]:
        """Everything posted since the last call, in order."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        return waiting


class Progressed:
    """A handler's progress."""

    __slots__ = ("fraction", "message")

    def __init__(self, fraction: float | None, message: str) -> None:
        self.fraction = fraction
        self.message = message


#: An attempt, and the frame that ends it, its progress, or a piece of output.
Report: TypeAlias = "tuple[Attempt, AgentFrame | Progressed | bytes]"


class TaskContext:
    """One attempt at a task, as its handler sees it. Every method is callable from any thread and never blocks."""

    __slots__ = ("_assign", "_attempt", "_cancelled", "_uplink")

    def __init__(self, attempt: Attempt, uplink: Uplink) -> None:
        self._attempt = attempt
        self._assign = attempt.assign
        self._uplink = uplink
        self._cancelled = False

    @property
    def id(self) -> str:
        """The task's id."""
        return self._assign.task_id

    @property
    def type(self) -> str:
        """Kind of work."""
        return self._assign.task_type

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return self._assign.attempt

    @property
    def payload(self) -> bytes:
        """The input's bytes."""
        return self._assign.payload.inline

    @property
    def media_type(self) -> str:
        """IANA media type of the input; empty when unknown."""
        return self._assign.payload.media_type

    @property
    def metadata(self) -> dict[str, str]:
        """Free text that came along with the input."""
        return dict(self._assign.payload.metadata)

    @property
    def fence_number(self) -> int:
        """Rises from attempt to attempt; hand it to outside systems that refuse lower numbers than they saw."""
        return self._assign.fence_number

    @property
    def context_id(self) -> str:
        """Groups tasks of one conversation or job."""
        return self._assign.context_id

    @property
    def traceparent(self) -> str:
        """W3C traceparent of the caller; empty without one."""
        return self._assign.traceparent

    @property
    def deadline(self) -> datetime | None:
        """When this attempt's time ends; None: never."""
        return self._assign.deadline.ToDatetime(UTC) if self._assign.HasField("deadline") else None

    @property
    def cancelled(self) -> bool:
        """True once the mesh asked to stop, or gave the task to another agent."""
        return self._cancelled

    @property
    def cancel_reason(self) -> str:
        """REQUESTED, DEADLINE, or HAND_OVER when another agent goes on; empty while nobody asked to stop."""
        reason = self._attempt.cancel_reason
        return "" if reason is None else CancelReason.Name(reason).removeprefix("CANCEL_REASON_")

    def raise_if_cancelled(self) -> None:
        """Raises TaskCancelled once the mesh asked to stop; for loops in sync handlers."""
        if self._cancelled:
            raise TaskCancelled(f"task {self.id} was told to stop")

    def json(self) -> object:
        """The input read as JSON; a malformed one fails the attempt for good."""
        try:
            value: object = json.loads(self.payload)
        except ValueError:
            raise NonRetryable("the payload is not JSON", type="InvalidPayload") from None
        return value

    def text(self) -> str:
        """The input read as UTF-8; a malformed one fails the attempt for good."""
        try:
            return self.payload.decode()
        except UnicodeDecodeError:
            raise NonRetryable("the payload is not UTF-8", type="InvalidPayload") from None

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        """Tells how far the attempt is: 0 to 1, and words for people. Only the newest report is sure to be seen."""
        if fraction is not None:
            fraction = round(fraction, 6)  # a sum of parts is often a hair beyond 1
            if not 0.0 <= fraction <= 1.0:
                raise InvalidRequest(f"progress {fraction} is not between 0 and 1")
        self._uplink.post((self._attempt, Progressed(fraction, cut_text(message, _MAX_PROGRESS_BYTES))))

    def output(self, chunk: bytes | str) -> None:
        """Passes a piece of output to those who watch the task. Not kept: the result is what the handler returns."""
        data = chunk.encode() if isinstance(chunk, str) else bytes(chunk)
        for start in range(0, len(data), MAX_OUTPUT_CHUNK_BYTES):
            self._uplink.post((self._attempt, data[start : start + MAX_OUTPUT_CHUNK_BYTES]))

    def set_cancelled(self) -> None:
        """Called by the agent when the mesh asks to stop."""
        self._cancelled = True


SyncHandler: TypeAlias = Callable[[TaskContext], Result]
AsyncHandler: TypeAlias = Callable[[TaskContext], Coroutine[Any, Any, Result]]
Handler: TypeAlias = SyncHandler | AsyncHandler


def is_async(handler: Handler) -> TypeGuard[AsyncHandler]:
    """True for handlers that run on the user's loop: coroutine functions, and objects whose call is one."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


class HandlerRunner:
    """Runs attempts on the user's loop and in threads; lives on the user's loop."""

    def __init__(
        self,
        handler_of: Callable[[str], Handler | None],
        loop: asyncio.AbstractEventLoop,
        uplink: Uplink,
        slots: int,
        *,
        namespace: str,
        agent_id: str,
    ) -> None:
        self._handler_of = handler_of
        self._loop = loop
        self._uplink = uplink
        self._threads = _DaemonThreads(slots)
        self._namespace = namespace
        self._agent_id = agent_id
        self._running: dict[Attempt, tuple[TaskContext, asyncio.Task[Result] | None]] = {}

    def start_and_stop(self, start: Iterable[Attempt], stop: Iterable[Attempt]) -> None:
        """Takes what one batch of frames brought. Runs on the user's loop."""
        for attempt in start:
            context = TaskContext(attempt, self._uplink)
            handler = self._handler_of(attempt.assign.task_type)
            assert handler is not None, "the session accepts only task types that have a handler"
            self._note("begins", attempt)
            if is_async(handler):
                task = self._loop.create_task(self._run_async(handler, context, attempt))
                self._running[attempt] = (context, task)
                task.add_done_callback(functools.partial(self._async_ended, context, attempt))
            else:
                self._running[attempt] = (context, None)
                blocking = cast("SyncHandler", handler)
                self._threads.run(functools.partial(self._run_sync, blocking, context, attempt))
        for attempt in stop:
            self._stop(attempt)

    def stop_all(self) -> None:
        """Asks every handler to stop."""
        for attempt in list(self._running):
            self._stop(attempt)

    def _stop(self, attempt: Attempt) -> None:
        context, task = self._running.get(attempt, (None, None))
        if context is not None:
            context.set_cancelled()
        if task is not None:
            task.cancel()

    async def _run_async(self, handler: AsyncHandler, context: TaskContext, attempt: Attempt) -> Result:
        try:
            with tracing.handling(attempt.assign, self._namespace, self._agent_id):
                return await handler(context)
        except SystemExit as error:
            # It would go through the loop and end the agent with all its attempts. A KeyboardInterrupt shall: it may be
            # a real one, where `serve` runs on a loop that leaves Ctrl-C as it is.
            raise Fail("SystemExit", str(error)) from error

    def _async_ended(self, context: TaskContext, attempt: Attempt, task: asyncio.Task[Result]) -> None:
        if task.cancelled():
            self._ended(context, attempt, error=asyncio.CancelledError("the handler cancelled itself"))
        elif (error := task.exception()) is not None:
            self._ended(context, attempt, error=error)
        else:
            self._ended(context, attempt, task.result())

    def _run_sync(self, handler: SyncHandler, context: TaskContext, attempt: Attempt) -> None:
        try:
            context.raise_if_cancelled()
            with tracing.handling(attempt.assign, self._namespace, self._agent_id):
                result = handler(context)
        except BaseException as error:  # noqa: BLE001 - whatever ends a handler ends its attempt
            self._ended(context, attempt, error=error)
        else:
            self._ended(context, attempt, result)

    def _ended(
        self,
        context: TaskContext,
        attempt: Attempt,
        result: Result = None,
        error: BaseException | None = None,
    ) -> None:
        self._running.pop(attempt, None)
        report = report_of(attempt.fence, result, error, was_cancelled=context.cancelled)
        self._uplink.post((attempt, report))
        if report.HasField("fail"):
            what = f"failed by {report.fail.type}: {report.fail.message}"
            self._note(what, attempt, logging.WARNING, error)
        else:
            self._note(report.WhichOneof("frame") or "", attempt)

    def _note(
        self, what: str, attempt: Attempt, level: int = logging.DEBUG, error: BaseException | None = None
    ) -> None:
        """Logs under the ids by which meshd's log knows the attempt."""
        if logger.isEnabledFor(level):
            assign = attempt.assign
            logger.log(
                level,
                "task %s attempt %d: %s",
                assign.task_id,
                assign.attempt,
                what,
                exc_info=error,
                extra={
                    "task_id": assign.task_id,
                    "namespace": self._namespace,
                    "attempt": assign.attempt,
                    "agent_id": self._agent_id,
                },
            )


class _DaemonThreads:
    """At most `count` threads, started as needed. Unlike an executor's they do not keep the process alive."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started = 0

    def run(self, job: Callable[[], None]) -> None:
        """Runs a job as soon as a thread is free. Called from one thread only."""
        if not self._idle.acquire(blocking=False) and self._started < self._count:
            self._started += 1
            threading.Thread(
                target=self._work, name=f"agentmesh-handler-{self._started}", daemon=True
            ).start()
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            self._jobs.get()()
            self._idle.release()
