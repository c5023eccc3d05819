"""Sessions: registered, connected, beating, broken, lost, gone."""

from __future__ import annotations

from meshd.domain import frames as f
from meshd.domain.commands import (
    Deregister,
    Frames,
    OpenStream,
    Register,
    Registered,
    StreamEnded,
)
from meshd.domain.drains import words_for
from meshd.domain.effects import Effects, Stream
from meshd.domain.errors import Reason, Refusal
from meshd.domain.handlers.attempts import (
    accepted,
    assignment,
    conclude_stop,
    lose,
    release,
    requeue,
)
from meshd.domain.handlers.report import report
from meshd.domain.handlers.submit import cancel_frame
from meshd.domain.limits import MAX_DEAF_PAUSE_S, MAX_SLOTS
from meshd.domain.pacing import longer
from meshd.domain.state import Namespace, Timer
from meshd.domain.values import Agent, AgentSpec, AttemptState, Health, Now, Session


def register(ns: Namespace, command: Register, now: Now, out: Effects) -> None:
    """Start a session; the agent's earlier one, if another process had it, is lost at once."""
    agent_id = command.spec.agent_id
    agent = ns.agents.get(agent_id)
    if agent is not None and agent.session is not None:
        if agent.session.key_hash == command.key_hash:
            out.replies.append((command.ticket, Registered(agent, agent.session)))
            return
        lose_session(
            ns,
            agent.session,
            "superseded",
            "another process registered as this agent",
            now,
            out,
        )
    if agent is None:
        agent = Agent(ns.name, command.spec, now.wall_ms, Health.DECLARED, now.wall_ms, "")
        ns.add_agent(agent)
    else:
        _inherit(agent.spec, command.spec)
        ns.agent_index.replace(agent, command.spec)
    lease = ns.fleet.lease_of(agent.spec)
    session = Session(
        command.session_id,
        agent,
        command.resume_hash,
        command.key_hash,
        command.spec.slots,
        now.wall_ms,
        lease=lease,
        told=lease,
        last_seen_mono=now.mono,
        # Until its first stream opens only the TTL decides.
        broken_mono=now.mono,
        ttl_only=True,
        drained=words_for(ns.drains.values(), agent.spec),
    )
    agent.session = session
    agent.last_seen_ms = now.wall_ms
    ns.sessions[session.session_id] = session
    ns.set_health(agent, Health.SUSPECT, "registered, its stream is not open yet", now, out)
    out.writes.agents[ns.name, agent_id] = agent
    out.replies.append((command.ticket, Registered(agent, session)))


def _inherit(declared: AgentSpec, spec: AgentSpec) -> None:
    """Let what the process left out be as it was declared, or as its last session had it."""
    spec.name = spec.name or declared.name
    spec.labels = spec.labels or declared.labels
    if not spec.host and not spec.port:
        spec.host, spec.port, spec.dns_name = declared.host, declared.port, declared.dns_name


def deregister(ns: Namespace, command: Deregister, now: Now, out: Effects) -> None:
    """End a session in good order."""
    session = ns.sessions.get(command.session_id)
    if session is None or session.agent.spec.agent_id != command.agent_id:
        out.replies.append((command.ticket, session_not_found()))
        return
    _leave(ns, session, "deregistered", now, out)
    out.replies.append((command.ticket, None))


def forget(ns: Namespace, session: Session, now: Now, out: Effects) -> None:
    """End a session that only a restored backup remembers; what it held goes back to the queue."""
    _leave(ns, session, "the mesh was restored from a backup", now, out)


def open_stream(ns: Namespace, command: OpenStream, now: Now, out: Effects) -> None:
    """Open a stream of a session and settle with the agent what it holds."""
    session = ns.sessions.get(command.session_id)
    if (
        session is None
        or session.resume_hash != command.resume_hash
        or session.agent.spec.agent_id != command.agent_id
    ):
        out.replies.append((command.ticket, session_not_found()))
        return
    if command.stream_seq <= session.stream_seq:
        message = (
            f"stream {command.stream_seq} of the session is not above {session.stream_seq}; count streams up"
        )
        out.replies.append((command.ticket, Refusal(Reason.STREAM_SUPERSEDED, message)))
        return
    if session.stream is not None:
        _close(session, f.GoAwayReason.SUPERSEDED, out)
    ns.fleet.opened(session, now.mono)
    session.stream = command.stream
    session.stream_seq = command.stream_seq
    session.takes_work = command.takes_work
    session.features = command.features
    session.broken_mono = 0.0
    session.ttl_only = False
    if command.slots is not None and command.slots != session.slots:
        session.slots = command.slots
        ns.agent_changed(session.agent, out)
    keep, drop, missing = _reconcile(ns, session, command, now, out)
    spec = session.agent.spec
    session.lease = session.told = ns.fleet.lease_of(spec)
    session.unconfirmed = False
    out.sends.append(
        (
            session.stream,
            f.Opened(
                command.features,
                ns.info.epoch,
                tuple(keep),
                tuple(drop),
                session.lease,
                spec.disconnected_grace_ms or ns.rules.disconnected_grace_ms,
            ),
        )
    )
    for task in missing:
        if f.Feature.ACCEPT not in session.features:
            # Before the assignment is made, which tells its deadline: the time of the attempt counts from here.
            accepted(ns, task, now)
        out.sends.append((session.stream, assignment(task)))
    if f.Feature.CANCEL in session.features:
        stopping = [t for t in session.held.values() if t.attempt_state is AttemptState.STOPPING]
        out.sends.extend((session.stream, cancel_frame(t)) for t in stopping)
    if session.drained:
        notify_drain(session, out)
    session.deaf = False
    session.deaf_count, session.deaf_until_mono = 0, 0.0
    ns.pools.remove(session)
    _seen(session, now)
    _recover(ns, session, "its stream is open", now, out)
    out.replies.append((command.ticket, session))


def _reconcile(
    ns: Namespace, session: Session, command: OpenStream, now: Now, out: Effects
) -> tuple[list[bytes], list[bytes], list]:  # type: ignore[type-arg]
    """Return the fences the agent keeps, those it must drop, and held tasks it does not know of."""
    if not command.takes_work:
        # On this stream nothing is worked on: what the session held goes to others.
        for task in list(session.held.values()):
            release(ns, session, task)
            if task.attempt_state is AttemptState.STOPPING:
                conclude_stop(ns, task, now, out)
            else:
                requeue(ns, task, AttemptState.RETURNED, now, out)
        return [], [h.fence for h in command.held], []
    named = {h.fence: h.phase for h in command.held}
    keep = [fence for fence in named if fence in session.held]
    drop = [fence for fence in named if fence not in session.held]
    for fence in keep:
        accepted(ns, session.held[fence], now)
    # What is void but still runs takes a slot, whoever knows why: a restart or another session forgot it. What does not run
    # any more has ended.
    runs = {h.fence for h in command.held if h.phase is not f.HeldPhase.RESULT_PENDING}
    session.quarantine = runs - session.held.keys()
    missing = [task for fence, task in session.held.items() if fence not in named]
    for task in missing:
        if task.attempt_state is AttemptState.STOPPING:
            # Nothing of it runs, so it is stopped.
            release(ns, session, task)
            conclude_stop(ns, task, now, out)
    return keep, drop, [task for task in missing if task.fence in session.held]


def frames(ns: Namespace, command: Frames, now: Now, out: Effects) -> None:
    """Apply frames that arrived on a stream; any of them proves that the agent lives."""
    session = command.session
    if session.stream is not command.stream:
        # The session went on without this stream. What arrived on it is void unless it is sent again.
        return
    _seen(session, now)
    # One that is deaf is offered no work either.
    if session.bucket < 0 and now.mono >= session.deaf_until_mono:
        session.deaf = False
        _recover(ns, session, "it answers again", now, out)
    slots: int | None = None
    for frame in command.frames:
        kind = type(frame)
        if kind is f.Beat:
            session.beat_seq = frame.seq  # type: ignore[union-attr]
            if frame.ttl_ms == session.told.ttl_ms:  # type: ignore[union-attr]
                session.lease = session.told
                session.unconfirmed = False
        elif kind is f.Slots:
            # Only the last counts: each may concern every queue that the session serves.
            slots = min(frame.slots, MAX_SLOTS)  # type: ignore[union-attr]
        elif kind is f.Bye:
            _leave(ns, session, frame.reason or "said goodbye", now, out)  # type: ignore[union-attr]
            return
        else:
            report(ns, session, frame, now, out)
    if slots is not None and slots != session.slots:
        _set_slots(ns, session, slots, now, out)
    if f.Feature.LEASE_ACK in session.features:
        _extend_lease(ns, session, now, out)


def _extend_lease(ns: Namespace, session: Session, now: Now, out: Effects) -> None:
    """Tell an agent that its lease is extended, when that is due, and when its pace changes, one change at a time."""
    lease = ns.fleet.lease_of(session.agent.spec)
    changes = lease != session.told and not session.unconfirmed
    # Well within TTL/3, so that the agent can tell a dead connection from a quiet one.
    if changes or now.mono - session.lease_ack_mono >= session.told.ttl_ms / 4000:
        session.lease_ack_mono = now.mono
        if changes:
            session.told = lease
            session.lease = longer(session.lease, lease)
            session.unconfirmed = True
        out.urgent.append((session.stream, f.LeaseAck(session.beat_seq, lease if changes else None)))


def stream_ended(ns: Namespace, command: StreamEnded, now: Now, out: Effects) -> None:
    """Note that a session's connection ended without Bye."""
    session = command.session
    if session.stream is not command.stream:
        # It has another by now, or is over.
        return
    session.stream = None
    ns.pools.remove(session)
    ns.fleet.broke(session, now.mono)
    ns.set_health(session.agent, Health.SUSPECT, "its connection ended", now, out)
    if not session.ttl_only:
        ns.arm(now.mono + ns.rules.lost_after_ms / 1000, Timer.BROKEN, session)


def lose_session(ns: Namespace, session: Session, cause: str, words: str, now: Now, out: Effects) -> None:
    """End a session whose agent is gone; its attempts go to others. ``cause`` is the metric's label.

    Whom another process replaced is told so: an agent that reads of a loss registers again, and would replace that.
    """
    held = len(session.held)
    session.agent.lost += held
    out.count("lost", cause, held)
    taken_over = cause == "superseded"
    _end(ns, session, f.GoAwayReason.SUPERSEDED if taken_over else f.GoAwayReason.SESSION_LOST, out)
    lose(ns, session, now, out, by_death=cause in ("connection", "superseded"))
    ns.set_health(session.agent, Health.LOST, words, now, out)


def deaf(
    ns: Namespace, session: Session, stream: Stream, fences: list[bytes], now: Now, out: Effects
) -> None:
    """Take back attempts that were not accepted in time; the session gets no more work until it speaks."""
    if session.stream is not stream:
        # What the stream carried away was sent again on the next one, with a time of its own.
        return
    unaccepted = [
        task
        for task in map(session.held.get, fences)
        if task is not None and task.attempt_state is AttemptState.ASSIGNED
    ]
    if not unaccepted:
        return
    ns.pools.remove(session)
    for task in unaccepted:
        del session.held[task.fence]
        out.sends.append((session.stream, f.Revoke(task.fence)))
        requeue(ns, task, AttemptState.RETURNED, now, out)
    out.count("unaccepted", by=len(unaccepted))
    if not session.deaf:
        session.deaf = True
        session.deaf_count += 1
        session.deaf_until_mono = now.mono + _deaf_pause_s(session.deaf_count)
        ns.set_health(
            session.agent,
            Health.DEAF,
            "it did not answer an assignment in time",
            now,
            out,
        )


def _deaf_pause_s(count: int) -> float:
    """Return how long who was deaf so often in a row gets nothing: at first until it speaks, then 1 s, 2 s, 4 s ..."""
    return min(2.0 ** (min(count, 10) - 2), MAX_DEAF_PAUSE_S) if count > 1 else 0.0


def suspect(ns: Namespace, session: Session, now: Now, out: Effects) -> None:
    """Give no new work to a session whose beat is late."""
    ns.pools.remove(session)
    if session.agent.health in (Health.HEALTHY, Health.DRAINING):
        ns.set_health(session.agent, Health.SUSPECT, "its beat is late", now, out)


def session_not_found() -> Refusal:
    """Return the refusal for an unknown or ended session."""
    message = "the session is unknown or over, or the resume token is not its own; call RegisterAgent again"
    return Refusal(Reason.SESSION_NOT_FOUND, message)


def _seen(session: Session, now: Now) -> None:
    session.last_seen_mono = now.mono
    session.agent.last_seen_ms = now.wall_ms


def settle_drain(ns: Namespace, session: Session, words: str, now: Now, out: Effects) -> None:
    """Let a session be drained for a reason in words, or not any more when there are none."""
    was, session.drained = session.drained, words
    if words:
        ns.pools.remove(session)
        if not was:
            notify_drain(session, out)
    # One that is away, deaf or suspect gets work, or its new health, when it speaks.
    if not session.deaf and session.agent.health is not Health.SUSPECT:
        _recover(ns, session, "no longer drained", now, out)


def notify_drain(session: Session, out: Effects) -> None:
    """Tell an agent that it gets nothing new, if it takes work and understands that."""
    if session.takes_work and f.Feature.DRAIN in session.features:
        out.sends.append((session.stream, f.Drain(session.drained)))


def _recover(ns: Namespace, session: Session, cause: str, now: Now, out: Effects) -> None:
    idles = session.takes_work and session.slots == 0 and session.agent.spec.slots > 0
    drained = session.takes_work and session.drained
    health = Health.DRAINING if drained or idles else Health.HEALTHY
    if session.agent.health is not health or (drained and session.agent.health_cause != session.drained):
        ns.set_health(session.agent, health, session.drained if drained else cause, now, out)
    if session.takes_work and not session.drained and ns.pools.add(session):
        ns.must_dispatch = True


def _set_slots(ns: Namespace, session: Session, slots: int, now: Now, out: Effects) -> None:
    ns.pools.remove(session)
    session.slots = slots
    ns.agent_changed(session.agent, out)
    if not session.deaf:
        _recover(ns, session, "takes nothing new" if slots == 0 else "takes work", now, out)


def _leave(ns: Namespace, session: Session, words: str, now: Now, out: Effects) -> None:
    _end(ns, session, None, out)
    lose(ns, session, now, out, by_death=False)
    ns.set_health(session.agent, Health.DECLARED, words, now, out)


def _end(ns: Namespace, session: Session, reason: f.GoAwayReason | None, out: Effects) -> None:
    """Take a session out of the namespace; its attempts are the caller's business."""
    ns.pools.remove(session)
    if session.stream is not None:
        _close(session, reason, out)
        session.stream = None
    del ns.sessions[session.session_id]
    session.agent.session = None
    out.writes.agents[ns.name, session.agent.spec.agent_id] = session.agent


def _close(session: Session, reason: f.GoAwayReason | None, out: Effects) -> None:
    if reason is not None and f.Feature.GO_AWAY in session.features:
        out.sends.append((session.stream, f.GoAway(reason)))
    out.closes.append(session.stream)
