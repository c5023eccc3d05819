"""The network: unary calls and streams between one life of an agent and one life of the daemon.

Rule: a stream keeps its order and loses a suffix when it breaks, as gRPC's do; what an agent sent on a stream that it
has given up may still arrive after its next stream opened. A call may be lost on its way, or its reply may be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from agentmesh.v1 import session_pb2 as pb
from meshd.domain import commands as c
from meshd.domain.errors import Refusal
from meshd.domain.frames import DownFrame
from meshd.domain.values import Session
from meshd.wire.codec import frames as codec

if TYPE_CHECKING:
    from tests.simulation.agents import Agent
    from tests.simulation.daemon import Daemon
    from tests.simulation.world import World

CALL_TIMEOUT_S: Final = 5.0


class Call:
    """A caller that waits for one reply; the ticket of its command."""

    def __init__(
        self, world: World, daemon: Daemon, on_reply: Callable[[Any], None], on_lost: Callable[[], None]
    ) -> None:
        self._world = world
        self._daemon = daemon
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._over = False
        daemon.calls[self] = None
        world.time.after(CALL_TIMEOUT_S, self._time_out)

    def _time_out(self) -> None:
        if self in self._daemon.calls:
            self._world.oracle.unanswered(self._daemon)
            self.lose()

    def answer(self, reply: Any) -> None:
        """The daemon answers."""
        self._daemon.calls.pop(self, None)
        if self._over:
            return
        world = self._world
        if world.rng.random() < world.loss:
            world.note("the reply is lost: %s", reply)
            world.time.after(CALL_TIMEOUT_S * world.rng.random(), self.lose)
        else:
            world.time.after(world.latency(), self._arrive, reply)

    def lose(self) -> None:
        """The caller learns nothing."""
        self._daemon.calls.pop(self, None)
        if not self._over:
            self._over = True
            self._world.time.after(self._world.latency(), self._on_lost)

    def _arrive(self, reply: Any) -> None:
        if not self._over:
            self._over = True
            self._on_reply(reply)


class Link:
    """One Work or Heartbeat stream."""

    def __init__(self, world: World, agent: Agent, daemon: Daemon, *, takes_work: bool) -> None:
        self.world = world
        self.agent = agent
        self.daemon = daemon
        self.namespace = agent.namespace
        self.takes_work = takes_work
        self.session: Session | None = None
        """Set once the daemon has answered Open."""
        self.closing = False
        """The daemon ends the stream after what it has sent."""
        self.over = False
        """The daemon's side has ended."""
        self.answered = False
        """Open was answered."""
        self._broken = False
        self._up: deque[list[pb.AgentFrame]] = deque()
        self._inbox: deque[list[pb.AgentFrame]] = deque()
        self._down: deque[list[DownFrame]] = deque()
        self._up_due = 0.0
        self._down_due = 0.0
        self._opening: pb.Open | None = None
        self._early: list[list[pb.AgentFrame]] = []
        daemon.links[self] = None

    # ---- up

    def up(self, frames: list[pb.AgentFrame]) -> None:
        """The agent sends a message."""
        self._up.append(frames)
        self._up_due = max(self._up_due, self.world.time.now + self.world.latency())
        self.world.time.at(self._up_due, self._arrive_up)

    def _arrive_up(self) -> None:
        if self._broken or self.daemon.dead:
            return
        if self.world.time.now < self.agent.up_blocked_until:
            self.world.time.at(self.agent.up_blocked_until + 0.001, self._arrive_up)
            return
        self._inbox.append(self._up.popleft())
        self.daemon.run(self._read, ())

    def _read(self) -> None:
        frames = self._inbox.popleft()
        if self.over:
            return
        if self._opening is None:
            self._opening = frames[0].open
            self._open(self._opening)
        elif self.session is None:
            self._early.append(frames)
        else:
            self._post(frames)

    def _post(self, frames: list[pb.AgentFrame]) -> None:
        assert self.session is not None
        self.daemon.post(self.namespace, c.Frames(self.session, self, codec.up(frames)[0]))

    def _open(self, opening: pb.Open) -> None:
        ticket = _Opening(self.world, self)
        command = c.OpenStream(
            ticket,
            self,
            opening.agent_id,
            opening.session_id,
            opening.resume_token,
            opening.stream_seq,
            self.takes_work,
            codec.features(opening.features),
            opening.slots if opening.HasField("slots") else None,
            codec.check_open(opening),
        )
        self.daemon.post(self.namespace, command)
        self.world.time.after(CALL_TIMEOUT_S, self._check_answered)

    def _check_answered(self) -> None:
        if not self.answered and not self.over:
            self.world.oracle.unanswered(self.daemon)

    def opened(self, reply: Session | Refusal) -> None:
        """The daemon has handled Open, durably."""
        self.answered = True
        if self.over:
            # The call was cancelled meanwhile: nobody ends this stream but the lease.
            return
        if isinstance(reply, Refusal):
            self._end()
            self.world.time.after(self.world.latency(), self.agent.refused, self, reply)
            return
        self.session = reply
        for frames in self._early:
            self._post(frames)

    # ---- down

    def down(self, frames: list[DownFrame]) -> None:
        """The daemon sends a message."""
        if self.closing or self.over:
            return
        self._down.append(frames)
        self._down_due = max(self._down_due, self.world.time.now + self.world.latency())
        self.world.time.at(self._down_due, self._arrive_down)

    def _arrive_down(self) -> None:
        if self._broken:
            return
        if self.world.time.now < self.agent.down_blocked_until:
            self.world.time.at(self.agent.down_blocked_until + 0.001, self._arrive_down)
            return
        self.agent.arrived(self, self._down.popleft())

    def close(self) -> None:
        """The daemon ends the stream in good order."""
        if not self.closing:
            self.closing = True
            self._end()
            self.world.time.at(self._down_due + 0.001, self.agent.stream_over, self)

    # ---- the end

    def _end(self) -> None:
        """The daemon's side ends."""
        if self.over:
            return
        self.over = True
        self.daemon.links.pop(self, None)
        if self.session is not None and not self.daemon.dead:
            self.daemon.post(self.namespace, c.StreamEnded(self.session, self))

    def end_later(self, due: float) -> None:
        """The daemon's side notices the end at a time."""
        self.world.time.at(due, self.daemon.later, due, self._end)

    def given_up(self) -> None:
        """The agent hung up; what it sent before still arrives."""
        rng = self.world.rng
        lingering = rng.choice((0.0, 0.0, 0.3, 2.0)) * rng.random()
        self._up_due = max(self._up_due, self.world.time.now) + lingering
        self.end_later(max(self._up_due, self.agent.up_blocked_until) + 0.002)

    def cut(self, daemon_after: float, agent_after: float) -> None:
        """The connection is reset: what is under way is lost."""
        self._broken = True
        self.end_later(self.world.time.now + daemon_after)
        self.world.time.after(agent_after, self.agent.stream_over, self)

    def daemon_died(self) -> None:
        """The daemon's process is gone; the agent sees a reset soon."""
        self._broken = self.over = True
        self.world.time.after(self.world.latency(), self.agent.stream_over, self)


class _Opening:
    """The ticket of an Open."""

    def __init__(self, world: World, link: Link) -> None:
        self.link = link

    def answer(self, reply: Any) -> None:
        """The daemon answers."""
        self.link.opened(reply)
