"""Keeping one agent present in the mesh: token, session, stream, and coming back whenever the stream is lost.

Rules:
- It comes back for ever, after random pauses of at most what the mesh prescribes (1 s), on a new channel each time.
- It stops by itself only where trying again cannot help: not allowed, not accepted, or another process took its place.
- A mesh that says nothing for 1.5 times the lease is treated as gone. A stall of this process is not its silence.
- Handlers and their results outlive the stream; what the mesh does not want any more is dropped when it says so, or
  when the connection was away for longer than `disconnected_grace`.

Everything here runs on the gRPC thread, except that `deliver` hands attempts over to the user's loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration

from agentmesh.backoff import MAX_PAUSE_S, Backoff, Clock
from agentmesh.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigurationError,
    InvalidRequest,
    MeshError,
    NotAuthenticated,
    NotFound,
    SessionEnded,
    Superseded,
    Unreachable,
)
from agentmesh.handlers import Progressed, Uplink
from agentmesh.identity import Identity
from agentmesh.link import Connect, Link, Stream
from agentmesh.session import Attempt, SessionMachine
from agentmesh.v1.agent_pb2 import Agent, AgentSpec, Health
from agentmesh.v1.registry_service_pb2 import GetAgentRequest, RegisterAgentRequest
from agentmesh.v1.session_pb2 import AgentFrame, GoAway, GoAwayReason

logger = logging.getLogger("agentmesh")

#: Largest message this agent can receive; gRPC's default.
MAX_INBOUND_BYTES = 4 * 1024 * 1024
_POINTLESS_TO_RETRY = (
    AccessDenied,
    AlreadyExists,
    ConfigurationError,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    Superseded,
)
#: A token that is refused so many times in a row, each time freshly renewed, will not be accepted.
_MAX_REFUSED_TOKENS = 3
_BYE_TIMEOUT_S = 1.0
_LIVE = (Health.HEALTH_HEALTHY, Health.HEALTH_SUSPECT, Health.HEALTH_DEAF, Health.HEALTH_DRAINING)

Deliver = Callable[[Sequence[Attempt], Sequence[Attempt]], None]


class Presence:
    """One agent's presence; `run` lasts until `leave` has been called, or raises why it cannot go on."""

    def __init__(
        self,
        machine: SessionMachine,
        identity: Identity,
        spec: AgentSpec,
        connect: Connect,
        uplink: Uplink,
        deliver: Deliver,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._machine = machine
        self._identity = identity
        self._spec = spec
        self._connect = connect
        self._uplink = uplink
        self._deliver = deliver
        self._clock = clock
        self._rng = rng
        self._backoff = Backoff(rng)
        self._session_key = os.urandom(16)
        self._lost_session_id = ""
        self._endpoint: str | None = None
        self._was_set_up = False
        self._refused_tokens = 0
        self._last_frame_s = 0.0
        self._away_since_s: float | None = None
        self._absence_noted = False
        self._to_send = asyncio.Event()
        self._renewal_asked = asyncio.Event()
        self._paced = asyncio.Event()  # the mesh prescribed anew when to beat
        self._news = asyncio.Event()  # something was received, reported, or asked of `leave`
        self._bye_said = asyncio.Event()
        self._is_opening = False  # Open is on its way, Opened has not come
        self._leave_by_s = float("inf")
        self._leaving: asyncio.Task[None] | None = None

    # ---- called from outside, on the gRPC thread -------------------------------------------------------------------

    async def run(self) -> None:
        """Stays present until left. Raises the MeshError that makes going on pointless."""
        self._away_since_s = self._clock.monotonic()
        while True:
            endpoint, self._endpoint = self._endpoint, None
            try:
                link = self._link(endpoint)
                try:
                    await self._live(link)
                finally:
                    await link.close()
                failure = "the daemon ended the stream"
                retry_after_s = 0.0
            except _POINTLESS_TO_RETRY:
                raise
            except MeshError as error:
                failure, retry_after_s = str(error), error.retry_after_s or 0.0
            if self._bye_said.is_set():
                return
            self._note_absence(failure)
            await self._clock.sleep(retry_after_s + self._backoff.next_pause_s())
            if self._bye_said.is_set():
                return

    def flush_uplink(self) -> None:
        """Takes what handlers said since the last time."""
        for attempt, report in self._uplink.take_all():
            if isinstance(report, bytes):
                self._machine.output(attempt, report)
            elif isinstance(report, Progressed):
                self._machine.progress(attempt, report.fraction, report.message)
            else:
                self._machine.finished(attempt, report)
        self._send_soon()
        self._news.set()

    async def leave(self, within_s: float) -> None:
        """Takes nothing new, waits up to `within_s` for what runs, then hands the rest back and says Bye.

        Called again it can only shorten the time.
        """
        self._leave_by_s = min(self._leave_by_s, self._clock.monotonic() + within_s)
        self._news.set()
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave())
        await asyncio.shield(self._leaving)

    # ---- one stream ------------------------------------------------------------------------------------------------

    def _link(self, endpoint: str | None) -> Link:
        try:
            link = self._connect(endpoint)
        except ConfigurationError as error:
            if not self._was_set_up:
                raise
            # What could be used before comes back, as a CA file does that is being replaced.
            raise Unreachable(error.message) from error
        self._was_set_up = True
        return link

    async def _live(self, link: Link) -> None:
        """From connecting to the end of one stream."""
        token = await self._identity.token(link)
        try:
            if not self._machine.session_id:
                await self._register(link, token)
            stream = link.open_stream(self._identity.current, takes_work=self._machine.slots > 0)
            try:
                await self._run_stream(link, stream)
            finally:
                self._machine.stream_closed()
                stream.cancel()
        except NotAuthenticated as error:
            self._refused_tokens += 1
            if self._identity.is_given:
                raise self._identity.given_token_refused(error) from error
            if self._refused_tokens >= _MAX_REFUSED_TOKENS:
                raise
            self._identity.expire()
            raise Unreachable(f"the token is not accepted: {error}") from error
        except Superseded as error:
            raise self._superseded() from error
        except SessionEnded:
            self._lost_session_id, self._machine.session_id = self._machine.session_id, ""
            self._session_key = os.urandom(16)
            raise

    async def _register(self, link: Link, token: str) -> None:
        namespace, agent_id = self._machine.namespace, self._machine.agent_id
        if self._lost_session_id:
            # Our session ended behind our back. If another process has one by now, two would take turns for ever.
            try:
                agent = await link.get_agent(GetAgentRequest(namespace=namespace, agent_id=agent_id), token)
            except NotFound:  # a mesh restored from a backup that is older than this agent: nobody lives
                agent = Agent()
            if agent.session_id not in ("", self._lost_session_id) and agent.health in _LIVE:
                raise self._superseded()
        request = RegisterAgentRequest(namespace=namespace, spec=self._spec, session_key=self._session_key)
        try:
            answer = await link.register(request, token)
        except AccessDenied as error:
            # A worker that gained a task type since it joined needs a token that allows it.
            if (
                error.reason != "GRANT_EXCEEDS_CALLER"
                or not self._identity.can_join
                or self._identity.is_given
            ):
                raise
            answer = await link.register(request, await self._identity.rejoin(link))
        self._lost_session_id = ""
        self._machine.registered(answer.session_id, answer.resume_token, answer.limits)

    async def _run_stream(self, link: Link, stream: Stream) -> None:
        self._last_frame_s = self._clock.monotonic()
        self._to_send.clear()
        opening = self._machine.open_stream(MAX_INBOUND_BYTES, takes_work=self._machine.slots > 0)
        self._is_opening = True
        reader = asyncio.create_task(self._read(stream))
        writer = asyncio.create_task(self._write(stream, opening))
        others = [
            asyncio.create_task(work)
            for work in (self._beat(), self._renew_tokens(link), self._end_after_bye())
        ]
        try:
            await asyncio.wait([reader, writer, *others], return_when=asyncio.FIRST_COMPLETED)
            if writer.done() and not reader.done():
                await asyncio.wait(
                    [reader], timeout=1.0
                )  # a failed write hides the status that the reader gets
            for task in (reader, *others, writer):
                if task.done():
                    task.result()
        finally:
            self._is_opening = False
            self._news.set()
            stream.cancel()
            for task in (reader, writer, *others):
                task.cancel()
            await asyncio.gather(reader, writer, *others, return_exceptions=True)

    async def _write(self, stream: Stream, opening: AgentFrame) -> None:
        await stream.write([opening])
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while batch := self._machine.take_batch():
                await stream.write(batch)

    async def _read(self, stream: Stream) -> None:
        while (frames := await stream.read()) is not None:
            self._last_frame_s = self._clock.monotonic()
            received = self._machine.receive(frames)
            if received.start or received.cancel or received.drop:
                self._deliver(received.start, received.cancel + received.drop)
            if received.paced:
                self._paced.set()
            if received.opened:
                self._is_opening = False
                self._arrived()
            self._send_soon()
            self._news.set()
            if received.drain_reason:
                name = f"{self._machine.namespace}/{self._machine.agent_id}"
                logger.info("agent %s gets no new work: %s", name, received.drain_reason)
            if received.reauthenticate:
                self._reauthenticate()
            if received.go_away is not None:
                self._go_away(received.go_away)
                return

    async def _beat(self) -> None:
        while True:
            limits = self._machine.limits
            pause_s = (_seconds(limits.beat_interval) or 1.0) * self._rng.uniform(0.8, 1.0)
            before_s = self._clock.monotonic()
            await self._first_of(self._paced, pause_s)
            now_s = self._clock.monotonic()
            self._last_frame_s += max(0.0, now_s - before_s - pause_s)  # this process stalled, not the mesh
            silence_s = now_s - self._last_frame_s
            if silence_s > 1.5 * (_seconds(limits.lease_ttl) or 3.5):
                raise Unreachable(f"the daemon said nothing for {silence_s:.1f} s")
            self._machine.beat()
            self._send_soon()

    async def _end_after_bye(self) -> None:
        await self._bye_said.wait()
        if not self._machine.is_open:
            return  # there was nobody to say it to
        await self._clock.sleep(_BYE_TIMEOUT_S)  # the daemon ends the stream; this is for one that does not

    async def _renew_tokens(self, link: Link) -> None:
        backoff = Backoff(self._rng)
        while True:
            await self._until_renewal()
            try:
                token = await self._identity.renew(link, self._identity.current)
            except _POINTLESS_TO_RETRY:
                raise
            except MeshError:
                await self._clock.sleep(backoff.next_pause_s())
                self._renewal_asked.set()
                continue
            backoff.reset()
            self._machine.fresh_token(token)
            self._send_soon()

    async def _until_renewal(self) -> None:
        if self._identity.is_given:
            await self._first_of(self._renewal_asked)
        else:
            await self._first_of(self._renewal_asked, max(0.0, self._identity.renew_in_s()))

    async def _first_of(self, event: asyncio.Event, pause_s: float | None = None) -> None:
        """Returns when the event is set, which it takes back, or after the pause."""
        waits: list[Coroutine[Any, Any, Any]] = [event.wait()]
        if pause_s is not None:
            waits.append(self._clock.sleep(pause_s))
        tasks = [asyncio.create_task(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        event.clear()

    # ---- what happens on the way -----------------------------------------------------------------------------------

    def _arrived(self) -> None:
        self._backoff.reset()
        self._backoff.max_pause_s = _seconds(self._machine.limits.max_reconnect_backoff) or MAX_PAUSE_S
        self._refused_tokens = 0
        self._away_since_s = None
        # Who read of the loss shall read of the return.
        level = logging.WARNING if self._absence_noted else logging.INFO
        self._absence_noted = False
        logger.log(
            level,
            "agent %s/%s is connected (session %s, %d attempts held)",
            self._machine.namespace,
            self._machine.agent_id,
            self._machine.session_id,
            self._machine.held_count,
        )

    def _go_away(self, go_away: GoAway) -> None:
        match go_away.reason:
            case GoAwayReason.GO_AWAY_REASON_SUPERSEDED:
                # Streams of ours that a newer one of ours replaced are not read any more: this is somebody else.
                raise self._superseded()
            case GoAwayReason.GO_AWAY_REASON_SESSION_LOST:
                raise SessionEnded("the mesh ended its session", reason="SESSION_NOT_FOUND")
        self._endpoint = go_away.endpoint or None

    def _reauthenticate(self) -> None:
        if not self._identity.is_given:
            self._renewal_asked.set()
            return
        logger.warning(
            "agent %s/%s will end soon: the token that was given to it runs out and cannot be renewed; start it again with "
            "a new one, or instead with a join token",
            self._machine.namespace,
            self._machine.agent_id,
        )

    def _superseded(self) -> Superseded:
        name = f"{self._machine.namespace}/{self._machine.agent_id}"
        return Superseded(
            f"another process runs as agent {name} and took its place: give each process its own agent id",
            reason="STREAM_SUPERSEDED",
        )

    def _note_absence(self, failure: str) -> None:
        now_s = self._clock.monotonic()
        if not self._absence_noted:
            self._absence_noted = True
            logger.warning("agent %s lost the mesh: %s; it keeps trying", self._machine.agent_id, failure)
        if self._away_since_s is None:
            self._away_since_s = now_s
        grace_s = _seconds(self._machine.limits.disconnected_grace) or 600.0
        if self._machine.held_count and now_s - self._away_since_s > grace_s:
            logger.warning(
                "agent %s gives up what it holds: away for over %g s", self._machine.agent_id, grace_s
            )
            self._deliver((), self._machine.abandon_all())

    async def _leave(self) -> None:
        self._machine.leave()
        self._send_soon()
        # Also on a stream that is not open yet: a Bye that cannot be said costs what was just assigned some time.
        while (self._machine.held_count or self._is_opening) and self._clock.monotonic() < self._leave_by_s:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), self._leave_by_s - self._clock.monotonic())
            except TimeoutError:
                break
        # First Bye, then the handlers: what they say about being stopped concerns nobody any more.
        self._machine.bye("the agent leaves")
        handed_back = self._machine.abandon_all()
        self._send_soon()
        self._bye_said.set()
        self._deliver((), handed_back)
        if handed_back:
            logger.warning(
                "agent %s/%s leaves with %d unfinished attempts: other agents get them",
                self._machine.namespace,
                self._machine.agent_id,
                len(handed_back),
            )

    def _send_soon(self) -> None:
        if self._machine.has_frames:
            self._to_send.set()


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
