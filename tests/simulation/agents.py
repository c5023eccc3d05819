"""Model agents: lives of processes that run handlers.

Those with the full profile speak through the SDK's own machine (agentmesh/session.py) and come back as the SDK's Presence
does; those with the minimal profile are what somebody might write by hand from the contract's comments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.duration_pb2 import Duration

from agentmesh.session import Attempt, Received, SessionMachine
from agentmesh.v1 import session_pb2 as pb
from agentmesh.v1.session_pb2 import Feature
from meshd.domain import commands as c
from meshd.domain.errors import Reason, Refusal
from meshd.domain.frames import Assign, DownFrame
from meshd.domain.values import AgentSpec, AgentType, Health
from meshd.wire.codec import frames as codec
from tests.simulation.network import Call, Link

if TYPE_CHECKING:
    from tests.simulation.daemon import Daemon
    from tests.simulation.world import World

BEAT_S: Final = 1.0
LEASE_ACK: Final = Feature.FEATURE_LEASE_ACK
GOOD_HEALTH: Final = (Health.HEALTHY, Health.SUSPECT, Health.DEAF, Health.DRAINING)


class MinimalMachine(SessionMachine):
    """The minimal profile: no features, so no Accept; everything else as the contract asks."""

    def open_stream(self, max_inbound_bytes: int, *, takes_work: bool) -> pb.AgentFrame:
        """Open without any feature, and with the slots that were registered."""
        frame = super().open_stream(max_inbound_bytes, takes_work=takes_work)
        frame.open.ClearField("slots")
        del frame.open.features[:]
        return frame

    def take_batch(self) -> list[pb.AgentFrame]:
        """Send no Accept."""
        return [frame for frame in super().take_batch() if frame.WhichOneof("frame") != "accept"]


class Agent:
    """One life of an agent's process."""

    def __init__(
        self,
        world: World,
        namespace: str,
        agent_id: str,
        *,
        slots: int,
        can: frozenset[str],
        minimal: bool,
        lease_ttl_ms: int = 0,
    ) -> None:
        self.world = world
        self.namespace = namespace
        self.agent_id = agent_id
        self.spec_fields = (slots, can, minimal, lease_ttl_ms)
        kind = MinimalMachine if minimal else SessionMachine
        self.machine = kind(namespace, agent_id, slots, self._handles)
        self.can = can
        self.slots = slots
        self.lease_ttl_ms = lease_ttl_ms
        self.gone = False
        self.link: Link | None = None
        self.up_blocked_until = 0.0
        self.down_blocked_until = 0.0
        self.ended_last = 0.0
        """When a handler ended last."""
        self.frozen_until = 0.0
        self.stubborn = 0
        """Handlers that run on although their attempt is nobody's."""
        self._number = world.number()
        self._key = f"key-{self._number}".encode()
        self._lost_session = ""
        self._silent_since = world.time.now
        self._inbox: deque[tuple[Link, list[DownFrame]]] = deque()
        self._drained_until = 0.0
        self.takes_work = True

    def _handles(self, _type: str) -> bool:
        return self.world.rng.random() >= self.world.plan.settings.decline_share

    def __str__(self) -> str:
        """Name it in histories."""
        return f"{self.namespace}/{self.agent_id}#{self._number}"

    # ---- the process

    @property
    def hears(self) -> bool:
        """True while what is sent to it arrives."""
        return self.world.time.now >= max(self.down_blocked_until, self.frozen_until)

    def later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have this process do something after a while."""
        self.world.time.after(seconds, self._run, call, arguments)

    def _run(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self.gone:
            return
        now = self.world.time.now
        if now < self.frozen_until:
            self.world.time.at(self.frozen_until + 0.001, self._run, call, arguments)
            return
        call(*arguments)

    def start(self) -> None:
        """Begin."""
        self.later(0.0, self._connect)
        self.later(BEAT_S, self._beat, self.world.time.now + BEAT_S)

    def die(self) -> None:
        """End at once; what was sent may still arrive."""
        self.gone = True
        self._hang_up()

    def leave(self) -> None:
        """Say goodbye and end."""
        self.world.note("%s says Bye", self)
        self.machine.leave()
        self.machine.bye("the agent leaves" if self.world.rng.random() < 0.5 else "")
        self._flush()
        self.gone = True
        self._hang_up()

    def drain(self, seconds: float, slots: int) -> None:
        """Take nothing new for a while, or less."""
        self.machine._send(pb.AgentFrame(slots=pb.Slots(slots=slots)))
        self._flush()
        self.later(seconds, self._undrain)

    def _undrain(self) -> None:
        self.machine._send(pb.AgentFrame(slots=pb.Slots(slots=self.slots)))
        self._flush()

    # ---- coming back

    def _connect(self) -> None:
        if self.link is not None:
            return
        self._silent_since = self.world.time.now
        if not self.machine.session_id:
            self._register()
            return
        daemon = self.world.reachable(self)
        if daemon is None:
            self._retry()
            return
        if self.world.rng.random() < 0.04:
            # It was away for too long, as it sees it.
            self.machine.abandon_all()
        self.link = Link(self.world, self, daemon, takes_work=self.takes_work)
        self.link.up([self.machine.open_stream(0, takes_work=self.takes_work)])

    def _retry(self) -> None:
        self.machine.stream_closed()
        self._hang_up()
        self.later(self.world.rng.random(), self._connect)

    def _hang_up(self) -> None:
        link, self.link = self.link, None
        if link is not None and not link.over:
            link.given_up()

    def _register(self) -> None:
        def ask(daemon: Daemon, ticket: Call) -> None:
            known = daemon.namespaces[self.namespace].agents.get(self.agent_id)
            session = known.session if known is not None else None
            if self._lost_session and session is not None and known is not None:
                other = session.session_id != self._lost_session and session.key_hash != self._key
                if other and known.health in GOOD_HEALTH:
                    self.world.note("%s finds another in its place and stops", self)
                    self.gone = True
                    ticket.lose()
                    return
            session_id = f"s{self.world.number()}"
            spec = AgentSpec(
                self.agent_id,
                AgentType.WORKER,
                name="own" if self._number % 3 == 0 else "",
                labels={"own": "1"} if self._number % 4 == 0 else {},
                host="own" if self._number % 5 == 0 else "",
                port=1 if self._number % 7 == 0 else 0,
                capabilities=self.can,
                slots=self.slots,
                lease_ttl_ms=self.lease_ttl_ms,
                disconnected_grace_ms=30_000 if self._number % 3 == 0 else 0,
            )
            daemon.post(self.namespace, c.Register(ticket, spec, session_id, self._key, session_id.encode()))

        def registered(reply: c.Registered) -> None:
            self.world.oracle.known(self.namespace, self.agent_id)
            rules = self.world.rules
            limits = codec.limits(rules, reply.session.told, rules.disconnected_grace_ms)
            session_id = reply.session.session_id
            self.machine.registered(session_id, session_id.encode(), limits)
            self._lost_session = ""
            self._connect()

        self.world.call(
            ask,
            lambda reply: self._run(registered, (reply,)),
            lambda: self._run(self._retry, ()),
            self,
        )

    def refused(self, link: Link, refusal: Refusal) -> None:
        """The daemon refused a stream."""
        if self.link is link:
            self._run(self._refused, (refusal,))

    def _refused(self, refusal: Refusal) -> None:
        self.world.note("%s is refused: %s", self, refusal)
        self.link = None
        if refusal.reason is Reason.STREAM_SUPERSEDED:
            self.gone = True
        elif refusal.reason is Reason.SESSION_NOT_FOUND:
            self._session_over()
        self._retry()

    def _session_over(self) -> None:
        self._lost_session, self.machine.session_id = self.machine.session_id, ""
        self._key = f"key-{self._number}-{self.world.number()}".encode()

    def stream_over(self, link: Link) -> None:
        """The stream ended, as this process sees it."""
        if self.link is link:
            self._run(self._stream_over, (link,))

    def _stream_over(self, link: Link) -> None:
        if self.link is link:
            self._retry()

    def _beat(self, due: float) -> None:
        now = self.world.time.now
        self._silent_since += max(0.0, now - due)
        limits = self.machine.limits
        pause_s = _seconds(limits.beat_interval) or BEAT_S
        self.later(pause_s * (0.8 + 0.2 * self.world.rng.random()), self._beat, now + pause_s)
        ttl_s = _seconds(limits.lease_ttl)
        # Without LeaseAck silence says nothing.
        told = LEASE_ACK in self.machine.features or not self.machine.is_open
        if self.link is not None and told and now - self._silent_since > 1.5 * ttl_s:
            self.world.note("%s hears nothing and hangs up", self)
            self.world.oracle.deserted(self)
            self._retry()
            return
        self.machine.beat()
        self._flush()

    # ---- frames

    def is_on(self, link: Link) -> bool:
        """Return whether this is the stream it speaks on."""
        return self.link is link

    def arrived(self, link: Link, frames: list[DownFrame]) -> None:
        """A message came."""
        self._inbox.append((link, frames))
        self._run(self._read, ())

    def _read(self) -> None:
        link, frames = self._inbox.popleft()
        if not self.is_on(link):
            return
        self._silent_since = self.world.time.now
        payloads = {frame.task_key: b"" for frame in frames if type(frame) is Assign}
        self._receive([codec.down(frame, payloads, self.world.rules) for frame in frames])
        if self.is_on(link):
            self._flush()

    def _receive(self, messages: Iterable[pb.MeshFrame]) -> None:
        received: Received = self.machine.receive(messages)
        for attempt in received.start:
            self.world.oracle.starts(self, attempt.fence)
            self._start(attempt)
        for attempt in received.drop:
            if attempt in self.machine._running and self.world.rng.random() < 0.2:
                # Said before the agent knew that the attempt is void.
                self.machine._send(pb.AgentFrame(progress=pb.Progress(fence=attempt.fence, seq=9)))
        for attempt in received.cancel + received.drop:
            obeys = self.world.rng.random() < self.world.plan.settings.obedience
            if attempt in self.machine._running:
                # Who does not obey, though it hangs, is ended by its supervisor in the end.
                after_s = 0.3 * self.world.rng.random() if obeys else 1.0 + 2.0 * self.world.rng.random()
                self.later(after_s, self._ended, attempt, True)
        if received.go_away is not None:
            reason = received.go_away.reason
            if reason == pb.GoAwayReason.GO_AWAY_REASON_SUPERSEDED:
                self.gone = True
            elif reason == pb.GoAwayReason.GO_AWAY_REASON_SESSION_LOST:
                self._session_over()
                self._retry()

    def _flush(self) -> None:
        if self.link is None:
            self.machine._outbox.clear()
            return
        while batch := self.machine.take_batch():
            if self.world.rng.random() < 0.03:
                # Whoever reports soon need not have said that it accepts.
                batch = [frame for frame in batch if not frame.HasField("accept")]
            for frame in batch:
                kind = frame.WhichOneof("frame")
                if kind == "decline" and self.world.rng.random() < 0.5:
                    frame.decline.retry_in.FromMilliseconds(self.world.rng.choice((200, 2_500)))
                elif kind == "accept" and self.world.rng.random() < 0.1:
                    # Whoever reports works: it need not have said Accept before.
                    fence = frame.accept.fence
                    if self.world.rng.random() < 0.5:
                        frame.progress.CopyFrom(pb.Progress(fence=fence, seq=self.world.rng.randrange(1, 4)))
                    else:
                        frame.output.CopyFrom(pb.Output(fence=fence, seq=1, chunk=b"piece"))
            if batch:
                self.link.up(batch)

    # ---- handlers

    def _start(self, attempt: Attempt) -> None:
        duration_s, hangs = self.world.handler_time(self.namespace, attempt.assign.task_id)
        if not hangs:
            self.later(duration_s, self._ended, attempt)
        if self.world.rng.random() < 0.1:
            self.later(duration_s / 3, self._progress, attempt)
            self.later(duration_s / 2, self._progress, attempt)

    def _progress(self, attempt: Attempt) -> None:
        self.machine.progress(attempt, 0.5, "half")
        self._flush()
        if self.world.rng.random() < 0.5:
            # Said again, as somebody does who does not count.
            again = pb.Progress(fence=attempt.fence, seq=attempt.progress_seq, message="again")
            self.machine._send(pb.AgentFrame(progress=again))
            self._flush()
        self.machine.output(attempt, b"piece")
        self._flush()

    def _ended(self, attempt: Attempt, stopped: bool = False) -> None:
        if attempt not in self.machine._running:
            return
        fence = attempt.fence
        roll = self.world.rng.random()
        report = pb.AgentFrame()
        if (stopped and roll < 0.8) or roll >= 0.98:
            report.stopped.fence = fence
        elif roll < 0.82:
            report.done.fence = report.done.output.inline = fence
        else:
            report.fail.fence, report.fail.type, report.fail.retryable = fence, "E", roll < 0.95
        self.machine.finished(attempt, report)
        self.ended_last = self.world.time.now
        self._flush()


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
