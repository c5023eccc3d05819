"""The oracle's account of what a turn tells whom: replies, frames, ends of streams, progress.

What one command asks for is judged when it had the turn to itself; what must hold whatever came together, on every turn.
"""

from __future__ import annotations

from typing import Final

from meshd.domain import commands as c
from meshd.domain import frames as f
from meshd.domain.effects import Effects
from meshd.domain.errors import Refusal
from meshd.domain.state import Namespace
from meshd.domain.values import AttemptState, OutcomeReason, Session, Task
from tests.simulation.picture import Attempt, OfSession, Picture, Turn
from tests.simulation.plan import Bounds, Settings
from tests.simulation.violation import Violation

ENDS: Final = (f.Done, f.Fail, f.Stopped)
FENCED: Final = (f.Accept, f.Decline, f.Progress, f.Output, *ENDS)
HAS_NO_TICKET: Final = (c.Frames, c.Unsendable, c.StreamEnded)
MAY_BECOME_THE_TASKS_END: Final = (OutcomeReason.EXECUTION_TIMEOUT, OutcomeReason.NONE)


class Telling:
    """What one turn may and must tell."""

    def __init__(self) -> None:
        self._before = Picture()
        self._stopping: dict[Task, Attempt] = {}
        self._marks = (0, 0, 0)
        self._ended_count = 0
        self._drains: set[str] = set()
        """Those in force before one that is put in force or lifted."""

    def before(self, ns: Namespace, batch: list[c.Command], out: Effects, picture: Picture) -> None:
        """Note what there is."""
        self._marks = (len(out.sends), len(out.closes), len(out.replies))
        self._before = picture
        self._ended_count = ns.ended_count
        if len(batch) == 1 and isinstance(batch[0], (c.StartDrain, c.LiftDrain)):
            self._drains = set(ns.drains)
        self._next_due = ns.next_due()

    def after(
        self,
        ns: Namespace,
        turn: Turn,
        batch: list[c.Command],
        out: Effects,
        settings: Settings,
        now_mono: float,
    ) -> None:
        """Judge what was told."""
        bounds = settings.bounds
        sends, closes, replies = self._marks
        told = out.sends[sends:]
        self._stopping = {attempt.task: attempt for attempt in self._before.stopping()}
        self._check_replies(batch, out.replies[replies:], settings.recent_tasks)
        self._check_ends_of_streams(ns, turn, batch, told, out.closes[closes:])
        self._check_cancels(turn, told)
        for task, before in self._stopping.items():
            same = before.is_stopped_alike()
            if not same and task.key not in out.writes.changed_tasks and task.key not in out.writes.new_tasks:
                raise Violation(f"how {task.spec.task_id} is being stopped changes and is not written")
        self._check_revokes(turn, batch, told)
        if len(batch) == 1 and self._next_due > now_mono:
            # All that changed comes from this command: no timer was due.
            self._check_one(ns, batch[0], told, out)
            if isinstance(batch[0], (c.StartDrain, c.LiftDrain)):
                self._check_drain(batch[0], out.replies[-1][1], bounds)

    # ---- replies

    def _check_replies(
        self, batch: list[c.Command], replies: list[tuple[object, object]], recent_tasks: int
    ) -> None:
        asked = [command for command in batch if not isinstance(command, HAS_NO_TICKET)]
        if not asked and not replies:
            return
        if [ticket for ticket, _ in replies] != [command.ticket for command in asked]:
            raise Violation(f"{len(replies)} replies to {len(asked)} commands")
        for command, (_, reply) in zip(asked, replies, strict=True):
            if isinstance(command, c.Submit) and len(batch) == 1:
                old = self._ended_count - command.ended_seen > recent_tasks // 2
                if isinstance(reply, c.LookAgain) is not old:
                    raise Violation("a submit that looked too long ago must look again, and no other")
            if isinstance(command, c.Submit) and isinstance(reply, list):
                for result in reply:
                    self._check_copy(command, result)

    @staticmethod
    def _check_copy(command: c.Submit, result: c.Submitted | Refusal) -> None:
        if isinstance(result, Refusal):
            return
        wanted = command.copies and not (result.existed and result.task_id in command.known)
        if (wanted and result.task is None) or (result.task is not None and not command.copies):
            raise Violation(f"{result.task_id} is not shown though asked for, or shown though not")

    # ---- streams

    def _check_ends_of_streams(
        self,
        ns: Namespace,
        turn: Turn,
        batch: list[c.Command],
        told: list[tuple[object, f.DownFrame]],
        closed: list[object],
    ) -> None:
        ended = {command.stream for command in batch if isinstance(command, c.StreamEnded)}
        opened = {command.stream for command in batch if isinstance(command, c.OpenStream)}
        reasons = {stream: frame.reason for stream, frame in told if isinstance(frame, f.GoAway)}
        right: set[object] = set()
        for session in (*turn.gone, *turn.sessions):
            before = self._before.sessions.get(session)
            stream = None if before is None else before.stream
            name = session.agent.spec.agent_id
            if before is None or stream is None or session.stream is stream:
                continue
            over = ns.sessions.get(session.session_id) is not session
            if session.stream is None and not over and stream not in ended and not opened:
                raise Violation(f"the stream of {name} counts as ended though it has not")
            if stream in ended:
                continue
            right.add(stream)
            if stream not in closed:
                raise Violation(f"the stream of {name} is not closed though it is no longer the session's")
            lost = over and not _leaves(session, batch)
            taken_over = not over or any(isinstance(x, c.Register) and x.spec.agent_id == name for x in batch)
            reason = f.GoAwayReason.SESSION_LOST if lost else None
            if taken_over:
                reason = f.GoAwayReason.SUPERSEDED
            if f.Feature.GO_AWAY not in before.features:
                reason = None
            if reasons.get(stream) != reason and len(batch) <= 1:
                raise Violation(f"{name} is told {reasons.get(stream)} when its stream ends, not {reason}")
        if not set(closed) <= right | opened | ended:
            raise Violation("a stream is closed though it is its session's")

    def _check_cancels(self, turn: Turn, told: list[tuple[object, f.DownFrame]]) -> None:
        """Whoever must stop an attempt is told so in the same turn, if it understands that, and nobody else."""
        cancels = {(stream, frame.fence) for stream, frame in told if isinstance(frame, f.Cancel)}
        for session in turn.after.sessions if cancels else turn.sessions:
            if session.stream is None:
                continue
            before = self._before.sessions.get(session)
            name = session.agent.spec.agent_id
            for fence, task in session.held.items():
                is_told = (session.stream, fence) in cancels
                stops = task.attempt_state is AttemptState.STOPPING
                understands = f.Feature.CANCEL in session.features
                if is_told and not (understands and stops):
                    raise Violation(f"{name} is told to stop what it need not, or does not understand it")
                again = before is not None and before.stream is session.stream and task in self._stopping
                if stops and understands and is_told is again:
                    raise Violation(f"{name} is not told to stop {task.spec.task_id}, or told twice")
            if f.Feature.ACCEPT not in session.features:
                waiting = [t for t in session.held.values() if t.attempt_state is AttemptState.ASSIGNED]
                if waiting:
                    raise Violation(f"{name} says no Accept, and {waiting[0].spec.task_id} waits for it")

    def _check_revokes(
        self, turn: Turn, batch: list[c.Command], told: list[tuple[object, f.DownFrame]]
    ) -> None:
        """Whoever loses an attempt without having said anything about it is told, unless it was never sent."""
        revoked = {(stream, frame.fence) for stream, frame in told if isinstance(frame, f.Revoke)}
        opened = {command.session_id for command in batch if isinstance(command, c.OpenStream)}
        said = {
            frame.fence
            for command in batch
            if isinstance(command, c.Frames)
            for frame in command.frames
            if isinstance(frame, FENCED)
        }
        said |= {command.assign.fence for command in batch if isinstance(command, c.Unsendable)}
        for session in turn.sessions:
            before = self._before.sessions.get(session)
            if before is None or session.stream is None or session.session_id in opened:
                continue
            for fence in before.held:
                lost = fence not in session.held and fence not in said
                if lost and (session.stream, fence) not in revoked:
                    raise Violation(f"{session.agent.spec.agent_id} lost an attempt and is not told")

    # ---- one command

    def _check_one(
        self, ns: Namespace, command: c.Command, told: list[tuple[object, f.DownFrame]], out: Effects
    ) -> None:
        if isinstance(command, c.Frames):
            before = self._before.sessions.get(command.session)
            if before is not None and before.stream is command.stream:
                self._check_goodbye(command)
            if before is not None and before.stream is command.stream and len(command.frames) == 1:
                self._check_frame(command.session, before, command.frames[0], told, out)
        elif isinstance(command, (c.Register, c.Deregister)):
            self._check_registration(ns, command)
        elif isinstance(command, c.OpenStream):
            self._check_open(ns, command, told)
        elif isinstance(command, (c.Cancel, c.StartDrain)):
            self._check_graces(ns, command)
        elif isinstance(command, c.Submit):
            self._check_deadlines(ns, command)

    @staticmethod
    def _check_goodbye(command: c.Frames) -> None:
        agent = command.session.agent
        for frame in command.frames:
            if isinstance(frame, f.Bye) and agent.health_cause != (frame.reason or "said goodbye"):
                raise Violation(f"{agent.spec.agent_id} left for {frame.reason!r}: {agent.health_cause!r}")

    def _check_registration(self, ns: Namespace, command: c.Register | c.Deregister) -> None:
        if isinstance(command, c.Register):
            known = self._before.own(command.spec.agent_id)
            again = known is not None and known.key_hash == command.key_hash
            if again and known not in ns.sessions.values():
                raise Violation(f"{command.spec.agent_id} repeated its registration and lost its session")
            return
        own = self._before.own(command.agent_id)
        for session in self._before.sessions:
            named = session is not own and session.session_id == command.session_id
            if named and session.session_id not in ns.sessions:
                raise Violation(f"{command.agent_id} ended the session of another agent")

    @staticmethod
    def _check_deadlines(ns: Namespace, command: c.Submit) -> None:
        for spec in command.specs:
            task = ns.tasks.get(spec.task_id)
            if task is None or task.spec is not spec:
                continue
            own = (spec.timeout_ms, spec.queue_timeout_ms)
            ends = [task.submit_ms + timeout_ms if timeout_ms else 0 for timeout_ms in own]
            if [task.deadline_ms, task.queue_deadline_ms] != ends:
                raise Violation(f"{spec.task_id} has other deadlines than were asked for")

    def _check_frame(
        self,
        session: Session,
        before: OfSession,
        frame: f.UpFrame,
        told: list[tuple[object, f.DownFrame]],
        out: Effects,
    ) -> None:
        name = session.agent.spec.agent_id
        if not isinstance(frame, FENCED):
            return
        task = before.held.get(frame.fence)
        ends = isinstance(frame, ENDS)
        if task is None:
            freed = frame.fence in before.quarantine and (ends or isinstance(frame, f.Decline))
            answer = f.Ack if freed else f.Revoke
            still = frame.fence in session.quarantine and freed
            if not _is_told(told, before.stream, answer, frame.fence) or still:
                raise Violation(f"{name} reports about what it does not hold and is not told so")
            if frame.fence in before.quarantine and not freed and frame.fence not in session.quarantine:
                raise Violation(f"a slot of {name} is free though its handler has not ended")
            return
        if ends and not _is_told(told, before.stream, f.Ack, frame.fence):
            raise Violation(f"a report of {name} is not acknowledged")
        waits = session.held.get(frame.fence) is task and task.attempt_state is AttemptState.ASSIGNED
        if waits and isinstance(frame, (f.Accept, f.Progress, f.Output)):
            raise Violation(f"{name} works at {task.spec.task_id}, which still counts as not accepted")
        attempt = int.from_bytes(frame.fence[8:], "big")
        piece = isinstance(frame, f.Output) and (task.key, attempt, name, frame.seq, frame.chunk)
        if piece and piece not in out.output:
            raise Violation(f"watchers of {task.spec.task_id} do not see its output")
        if isinstance(frame, f.Progress):
            old = next(attempt.progress for attempt in before.attempts if attempt.task is task)
            news = old is None or frame.seq > old[1]
            right = (task.attempt, frame.seq, frame.fraction, frame.message) if news else old
            if task.progress != right or (task in out.progress) is not news:
                raise Violation(f"the progress of {task.spec.task_id} is {task.progress}, not {right}")

    def _check_open(
        self, ns: Namespace, command: c.OpenStream, told: list[tuple[object, f.DownFrame]]
    ) -> None:
        session = ns.sessions.get(command.session_id)
        before = None if session is None else self._before.sessions.get(session)
        if session is None or before is None or session.stream is not command.stream:
            return
        name = session.agent.spec.agent_id
        if command.stream_seq <= before.stream_seq:
            raise Violation(f"a stream of {name} counts though a newer one was there")
        assigned = {frame.fence for to, frame in told if to is command.stream and isinstance(frame, f.Assign)}
        named = {held.fence for held in command.held}
        if not command.takes_work:
            if session.held or assigned:
                raise Violation(f"{name} holds attempts on a stream that takes no work")
            return
        stopping = {fence for fence, task in before.held.items() if task in self._stopping}
        if before.held.keys() - stopping - session.held.keys():
            raise Violation(f"{name} returned in its session and lost an attempt")
        if session.held.keys() & stopping - named:
            raise Violation(f"{name} does not know an attempt that still counts as being stopped")
        if assigned - session.held.keys():
            raise Violation(f"{name} is given an attempt that is over")
        if assigned & named:
            raise Violation(f"{name} is given again what it said it holds")
        if (session.held.keys() & before.held.keys()) - named - assigned:
            raise Violation(f"{name} holds an attempt it does not know of and is not given again")
        runs = {held.fence for held in command.held if held.phase is not f.HeldPhase.RESULT_PENDING}
        if session.quarantine != runs - session.held.keys():
            raise Violation(f"slots of {name} are quarantined against what it says that it runs")

    def _check_drain(self, command: c.StartDrain | c.LiftDrain, reply: object, bounds: Bounds) -> None:
        """A drain is put in force or lifted once, and there are not too many."""
        name = command.drain.drain_id if isinstance(command, c.StartDrain) else command.drain_id
        there = name in self._drains
        starts = isinstance(command, c.StartDrain)
        full = starts and not there and len(self._drains) >= bounds.drains
        if isinstance(reply, Refusal) is not full:
            raise Violation(
                f"with {len(self._drains)} drains in force a {type(command).__name__} got {reply}"
            )
        if isinstance(reply, c.Drained) and reply.changed is not (there is not starts):
            raise Violation(f"{type(command).__name__} of {name} is answered with {reply}")

    def _check_graces(self, ns: Namespace, command: c.Cancel | c.StartDrain) -> None:
        """Of an attempt that was being stopped already the grace only shrinks; only a cancel changes the cause."""
        for task, attempt in self._stopping.items():
            grace_ms, cause = attempt.cancel_grace_ms, attempt.cancel_cause
            if task.attempt_state is not AttemptState.STOPPING:
                continue
            shorter = min(grace_ms, command.grace_ms)
            if isinstance(command, c.Cancel):
                asked = task.spec.task_id == command.task_id and not attempt.cancel_ms
                becomes = OutcomeReason.CANCEL_REQUESTED if cause in MAY_BECOME_THE_TASKS_END else cause
                right = (shorter, becomes) if asked else (grace_ms, cause)
            else:
                session = self._before.own(task.agent_id)
                asked = session is not None and command.hand_over and cause is OutcomeReason.NONE
                asked = asked and session is not None and command.drain.selector.matches(session.agent.spec)
                # When it is refused, because there are too many, nothing happens.
                asked = asked and command.drain.drain_id in ns.drains
                right = (shorter if asked else grace_ms, cause)
            if (task.cancel_grace_ms, task.cancel_cause) != right:
                raise Violation(
                    f"{task.spec.task_id} is being stopped for other reasons or longer than asked"
                )


def _is_told(
    told: list[tuple[object, f.DownFrame]], stream: object, kind: type[f.Ack | f.Revoke], fence: bytes
) -> bool:
    # Frames are tuples, and tuples of different kinds may be equal.
    return any(to is stream and type(frame) is kind and frame.fence == fence for to, frame in told)


def _leaves(session: Session, batch: list[c.Command]) -> bool:
    """Return whether the session's own process ended it in good order."""
    return any(
        (isinstance(command, c.Deregister) and command.session_id == session.session_id)
        or (
            isinstance(command, c.Frames)
            and command.session is session
            and any(isinstance(frame, f.Bye) for frame in command.frames)
        )
        for command in batch
    )
