"""Admission: whether a unary call is worked on, or refused because too many wait before it.

gRPC's core queues what arrives faster than the event loop takes it: one call in a turn or two of the loop. A call in that
queue costs memory and no time, and it is what holds a flood back, since it occupies a stream of its connection. So calls
are taken in their order and worked on; once they wait for long, some are refused instead, and the rest waits less.

Rule: a call is refused before anything of it is read: no parsing, no token, no record. Refusals are paced: a caller that
is refused calls again, and answering all of that would leave no time for the work. Streams are never refused, nor are the
methods by which agents come and operators act.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio

from meshd.domain.access import AccessRule, Action, Scope
from meshd.domain.errors import Reason, Refusal
from meshd.ports.observer import Observer
from meshd.wire.status import CODES, to_status, trailing_metadata

PATIENCE_S: Final = 0.5
"""Calls are refused while they wait longer than this."""
FEW: Final = 512
"""So few calls that wait are no flood, however long each takes: callers who wait for each other's turn."""
REFUSALS_PER_S: Final = 500
ONE_IN: Final = 4
"""Of so many calls in a row one is refused at most. A refusal takes about 0.1 ms of processor time, a fifth of what a task
takes: refusing every other call would take a sixth of the goodput, every fourth takes a sixteenth."""
RETRY_MS: Final = 1_000
LOOK_INTERVAL_S: Final = 0.2
LOOK_COST: Final = 50
"""A pause between looks is at least so many times as long as a look: for each connection it takes 40 to 80 µs, since the
core goes through them all."""
FEW_STREAMS: Final = 1_000
"""Behind more of them there are so many connections that a look stops the loop for too long to be taken on suspicion."""
SHORT_LOOK_S: Final = 0.05
"""The same of a look that took longer, whatever the connections were for."""
CROWD_TURNS: Final = 32
CROWD_CALLS: Final = 6
"""Where calls wait, every fourth turn of the loop takes one: so many turns take at least so many."""
BUSY_SHARE: Final = 0.75
"""An event loop that uses less of its time than this, and takes few calls, has no crowd waiting."""
BUSY_CALLS_PER_S: Final = 1_000
IDLE_SHARE: Final = 0.25
"""An event loop that used no more of its time than this had no call waiting."""
SMOOTHING: Final = 0.25
SPARED: Final = frozenset({"WaitTask", "CancelTask"})
"""Tells of what was asked before, and takes work away."""


class Admission:
    """Watches how long calls wait, and refuses some while that is too long.

    As a context it surrounds the work on a call, the arrival of its request included: what is open and not worked on waits.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.in_work = 0
        """Calls and streams under way here."""
        self._taken = 0
        self._refusable = 0
        """Calls taken so far that may be refused."""
        self._look_s = 0.0
        """How long the last look took."""
        self._next_look_mono = 0.0
        self._taken_per_s = 0.0
        self._may_refuse = 0
        self._baseline_due = False
        self._never_ended = 0
        """Open calls that are none: the core does not count the end of those that it shed."""
        self._looked_mono = time.monotonic()
        self._looked_cpu_s = time.thread_time()
        self.waiting = 0
        """Calls that wait to be taken."""
        self.wait_s = 0.0
        """How long the last of them will have waited."""
        message = "meshd has more calls than it can work on; try again after the delay"
        refusal = Refusal(Reason.OVERLOADED, message, retry_ms=RETRY_MS)
        status = to_status(refusal)
        self._refusal = CODES[refusal.reason], status.message, trailing_metadata(status)

    def __enter__(self) -> None:
        """Begin the work on a call."""
        self.in_work += 1

    def __exit__(self, *_exc: object) -> None:
        """End it."""
        self.in_work -= 1

    def refuses(self, *, spared: bool = False) -> bool:
        """Decide on a call that was taken just now; those to be spared are worked on."""
        self._taken += 1
        if spared:
            return False
        self._refusable += 1
        if not self._may_refuse or self._taken % ONE_IN:
            return False
        self._may_refuse -= 1
        return True

    def look(self, open_calls: int) -> None:
        """Conclude from the number of open calls, streams included, how many may be refused until the next look."""
        now_mono, now_cpu_s = time.monotonic(), time.thread_time()
        passed_s = max(now_mono - self._looked_mono, 0.001)
        busy_share = (now_cpu_s - self._looked_cpu_s) / passed_s
        self._looked_mono, self._looked_cpu_s = now_mono, now_cpu_s
        not_in_work = open_calls - self.in_work
        if busy_share <= IDLE_SHARE or not_in_work < self._never_ended:
            self._never_ended = not_in_work
        self.waiting = not_in_work - self._never_ended
        self._taken_per_s += (self._taken / passed_s - self._taken_per_s) * SMOOTHING
        self._taken = 0
        self.wait_s = self.waiting / max(self._taken_per_s, 1.0)
        overloaded = self.wait_s > PATIENCE_S and self.waiting > FEW
        self._may_refuse = max(1, int(REFUSALS_PER_S * passed_s)) if overloaded else 0

    async def look_forever(self, open_calls: Callable[[], int]) -> None:
        """Look while the loop is busy, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            await self.look_if_worth(open_calls)

    async def look_if_worth(self, open_calls: Callable[[], int]) -> None:
        """Look when calls may wait, unless the last look was too long for another one so soon."""
        if not await self.worth_a_look():
            return
        if time.monotonic() < self._next_look_mono:
            self._baseline_due = True
            return
        start_s = time.thread_time()
        self.look(open_calls())
        self._look_s = time.thread_time() - start_s
        self._next_look_mono = time.monotonic() + LOOK_COST * self._look_s

    async def worth_a_look(self) -> bool:
        """Tell whether calls may wait; else conclude that none does. After that, one more look counts what is left.

        Where a look takes long it must be likely: a loop that is busy for a few callers, by their searches say, is no sign.
        """
        if self._busy():
            short = self._look_s <= SHORT_LOOK_S and self.in_work <= FEW_STREAMS
            if short or await self._crowded():
                self._baseline_due = True
                return True
        elif self._baseline_due:
            self._baseline_due = False
            self._may_refuse = 0
            return True
        self._looked_mono, self._looked_cpu_s, self._taken = time.monotonic(), time.thread_time(), 0
        self.waiting, self.wait_s, self._may_refuse = 0, 0.0, 0
        return False

    def _busy(self) -> bool:
        passed_s = max(time.monotonic() - self._looked_mono, 0.001)
        busy_share = (time.thread_time() - self._looked_cpu_s) / passed_s
        return busy_share > BUSY_SHARE or self._taken > BUSY_CALLS_PER_S * passed_s

    async def _crowded(self) -> bool:
        """Tell whether the loop finds a call to take nearly wherever it looks for one. Agents that come back are no crowd."""
        before = self._refusable
        for _ in range(CROWD_TURNS):
            await asyncio.sleep(0)
        return self._refusable - before >= CROWD_CALLS

    def refusing(self, method: str, rule: AccessRule) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler that refuses calls of a unary method; None when they are never refused."""
        if (
            method in SPARED
            or rule.scope is Scope.SELF
            or rule.action is Action.ADMIN
            or rule.unauthenticated
        ):
            return None
        code, message, trailing = self._refusal

        async def refuse(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            with self:
                self._observer.refused(Reason.OVERLOADED.name)
                self._observer.handled(method, code.name, 0.0)
                # Not by ``abort``, which leaves cycles for every call.
                context.set_code(code)
                context.set_details(message)
                context.set_trailing_metadata(trailing)

        handler: Any = refuse
        return grpc.stream_stream_rpc_method_handler(handler)
