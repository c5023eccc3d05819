"""The faults: what each kind of event does to a world. Subjects and strengths come from the event, never from here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from meshd.domain import commands as c
from meshd.domain.drains import AgentSelector, drain_id
from tests.simulation.agents import Agent
from tests.simulation.daemon import KILL_POINTS
from tests.simulation.plan import Event

if TYPE_CHECKING:
    from tests.simulation.world import World

# ---- faults of agents


def _break(world: World, agent: Agent, event: Event) -> None:
    if agent.link is None:
        return
    if event.detail % 4 == 0:
        # The daemon goes on for a while, and what it says is lost.
        agent.link.cut(0.2 + event.amount, event.amount)
    else:
        agent.link.cut(event.amount * 0.05, (event.detail % 7) * event.amount * 0.3)


def _flap(world: World, agent: Agent, event: Event) -> None:
    """The connection breaks again and again; the agent is back each time before it counts as lost."""
    for number in range(2 + event.detail % 2):
        world.time.after(number * (0.1 + 0.5 * event.amount), _cut, agent)


def _cut(agent: Agent, seen_after_s: float = 0.0) -> None:
    if agent.link is not None:
        agent.link.cut(seen_after_s, 0.0)


def _block(world: World, agent: Agent, event: Event) -> None:
    """The agent's network is away, in one direction or both; keepalive finds it, or does not."""
    until = world.time.now + event.amount**2 * 14.0
    ways = event.detail % 4
    if ways != 1:
        agent.up_blocked_until = until
    if ways != 2:
        agent.down_blocked_until = until
    if event.detail % 3 and agent.link is not None:
        agent.link.end_later(world.time.now + 1.7 + event.amount * 0.5)


def _freeze_agent(world: World, agent: Agent, event: Event) -> None:
    seconds = event.amount**2 * 14.0
    agent.frozen_until = world.time.now + seconds
    if seconds > 1.7 and event.detail % 3 and agent.link is not None:
        agent.link.cut(1.7 + event.amount * 0.3, seconds)


def _die(world: World, agent: Agent, event: Event) -> None:
    world.note("%s dies", agent)
    agent.die()
    if event.detail % 4:
        world.time.after(event.amount * 6.0, world.respawn, agent)


def _twin(world: World, agent: Agent, event: Event) -> None:
    world.respawn(agent)


def _leave(world: World, agent: Agent, event: Event) -> None:
    agent.leave()
    world.time.after(event.amount * 3.0, world.respawn, agent)


def _drain(world: World, agent: Agent, event: Event) -> None:
    agent.drain(event.amount * 5.0, agent.slots // 2 if event.detail % 3 == 0 else 0)
    if event.detail % 3 == 1:
        _heartbeat_only(world, agent, event)
    elif event.detail % 3 == 0:
        # It comes back before the end of this stream is seen, and says that it has all of its slots.
        world.time.after(0.2 + event.amount, _cut, agent, 0.6)


def _heartbeat_only(world: World, agent: Agent, event: Event) -> None:
    """The agent comes back on a Heartbeat stream for a while."""
    agent.takes_work = False

    def back() -> None:
        agent.takes_work = True
        if agent.link is not None:
            agent.link.cut(0.0, 0.0)

    world.time.after(event.amount * 5.0, back)
    if agent.link is not None:
        # Often the next stream is there before the end of this one is.
        agent.link.cut(event.amount * 0.5, 0.0)


def _ask(world: World, agent: Agent, make: Callable[[object], c.Command]) -> None:
    """Ask once for something about an agent."""
    world.call(
        lambda daemon, ticket: daemon.post(agent.namespace, make(ticket)), lambda _: None, lambda: None
    )


def _impostor(world: World, agent: Agent, event: Event) -> None:
    """Somebody opens a stream of the session with a wrong token, as another agent, with an old number or the newest."""
    session_id = agent.machine.session_id
    way = event.detail % 4
    _ask(
        world,
        agent,
        lambda ticket: c.OpenStream(
            ticket,
            object(),
            "somebody" if way == 0 else agent.agent_id,
            session_id,
            b"wrong" if way == 1 else session_id.encode(),
            {2: 0, 3: agent.machine.stream_seq}.get(way, 1_000_000),
            takes_work=True,
            features=frozenset(),
            slots=None,
            held=[],
        ),
    )


def _revoke(world: World, agent: Agent, event: Event) -> None:
    agent_id = {0: "nobody", 1: "declared"}.get(event.detail % 5, agent.agent_id)
    _ask(world, agent, lambda ticket: c.RevokeAgent(ticket, agent_id))


def _deregister(world: World, agent: Agent, event: Event) -> None:
    session_id = agent.machine.session_id if event.detail % 4 else "long over"
    agent_id = agent.agent_id if event.detail % 3 else "somebody"
    _ask(world, agent, lambda ticket: c.Deregister(ticket, agent_id, session_id))


def _declare(world: World, agent: Agent, event: Event) -> None:
    """An agent is declared, again with the same content, and again with other; at times its identity is taken away."""
    agent_id = agent.agent_id if event.detail % 2 else "declared"
    for number, content in enumerate((event.detail % 7, event.detail % 7, event.detail % 5)):
        world.time.after(number * event.amount, world.declare, agent.namespace, agent_id, content)
    if event.detail % 3 == 0:
        world.time.after(
            3 * event.amount, _ask, world, agent, lambda ticket: c.RevokeAgent(ticket, "declared")
        )


def _cancel_away(world: World, agent: Agent, event: Event) -> None:
    """All that an agent holds is cancelled for very soon while its connection is away; it may forget what it held."""
    until = world.time.now + 0.5 + event.amount
    agent.up_blocked_until = max(agent.up_blocked_until, until)
    for attempt in list(agent.machine._held.values()):
        world.cancel(agent.namespace, attempt.assign.task_id, 200 if event.detail % 2 else 5_000)
    _cut(agent)
    if event.detail % 3 == 0:
        agent.machine.abandon_all()


AGENT_FAULTS: dict[str, Callable[[World, Agent, Event], None]] = {
    "break": _break,
    "flap": _flap,
    "block": _block,
    "freeze_agent": _freeze_agent,
    "die": _die,
    "twin": _twin,
    "leave": _leave,
    "drain": _drain,
    "heartbeat_only": _heartbeat_only,
    "impostor": _impostor,
    "revoke": _revoke,
    "declare": _declare,
    "cancel_away": _cancel_away,
    "deregister": _deregister,
}


# ---- faults of the daemon's host and of many at once


def _kill(world: World, event: Event) -> None:
    world.restart_s = 0.1 + event.amount**2 * (8.0 if event.detail % 5 == 0 else 2.0)
    world.from_backup = event.detail % 6 == 1
    world.kill("at an instant")


def _kill_at(world: World, event: Event) -> None:
    world.restart_s = 0.1 + event.amount
    world.kill_at = KILL_POINTS[event.detail % len(KILL_POINTS)]


def _freeze_daemon(world: World, event: Event) -> None:
    if event.detail % 4 == 0:
        # Some connections end just before, and nobody can return meanwhile.
        for agent in world.agents[event.subject % 2 :: 2]:
            _cut(agent)
        world.time.after(0.15, _freeze_daemon, world, event._replace(detail=1))
        return
    daemon = world.daemon
    now = world.time.now
    if daemon is None or daemon.frozen_until > now:
        return
    seconds = event.amount**2 * 9.0
    for agent in world.agents[event.subject % 3 :: 3] if event.detail % 4 == 1 else ():
        world.time.after(seconds + 0.1 + event.amount * 5.0, _cut, agent)
    # Of one that dies within its own TTL after a stall the connection says nothing.
    owners = [agent for agent in world.agents if agent.spec_fields[3] and not agent.gone]
    if owners and event.detail % 4 >= 2:
        agent = owners[event.subject % len(owners)]
        after_s = seconds + agent.spec_fields[3] / 1000 * (0.5 + event.subject / 220)
        world.time.after(after_s, agent.die)
        world.time.after(after_s + 6.0 * event.amount, world.respawn, agent)
    daemon.frozen_until = now + seconds
    world.daemon_freezes.append((now + seconds, seconds))
    if seconds > 2.0:
        for link in list(daemon.links):
            if world.rng.random() < 0.4:
                world.time.after(2.0 + world.rng.random(), link.agent.stream_over, link)


def _disk_stall(world: World, event: Event) -> None:
    world.disk_stall_until = world.time.now + event.amount * 1.5


def _disk_fail(world: World, event: Event) -> None:
    world.restart_s = 0.2 + event.amount
    world.disk_fails = True


def _operator_drain(world: World, event: Event) -> None:
    """An operator drains one agent or all, or one for several reasons, and lifts that after a while."""
    namespaces = world.plan.settings.namespaces
    namespace = namespaces[event.detail % len(namespaces)]
    patterns = ["*" if event.subject % 4 == 0 else f"a{event.subject % 3}"]
    if event.detail % 3:
        patterns.append("a?")
    grace_ms = int(event.amount * 2_000)
    for number, pattern in enumerate(patterns):
        until = 0.5 + event.amount * 6.0 + number * (event.detail % 7 - 3)
        hand_over = event.detail % 2 == 0
        world.time.after(
            number * event.amount, _drain_for, world, namespace, pattern, grace_ms, hand_over, until
        )
        # Some hear nothing while it comes or goes.
        for agent in world.agents[event.detail % 4 :: 3] if event.detail % 5 == 0 else ():
            agent.up_blocked_until = max(agent.up_blocked_until, world.time.now + until + 0.5)


def _drain_for(
    world: World, namespace: str, pattern: str, grace_ms: int, hand_over: bool, until: float
) -> None:
    world.start_drain(namespace, pattern, grace_ms, hand_over=hand_over)
    world.time.after(max(0.1, until), world.lift_drain, namespace, drain_id(AgentSelector(pattern)))
    if hand_over:
        # Asked again: for the same time, for more, for less.
        for number, again_ms in enumerate((grace_ms, grace_ms + 500, grace_ms // 2), 1):
            again = partial(world.start_drain, namespace, pattern, again_ms, hand_over=True)
            world.time.after(number * 0.05, again)


def _jump(world: World, event: Event) -> None:
    world.jumped = True
    world.wall_shift_ms += event.detail * 7_200 - 3_600_000


def _lag(world: World, event: Event) -> None:
    usual = world.plan.settings.latency_s
    world.latency_s = 0.1 + event.amount * 0.5
    world.time.after(event.amount * 3.0, setattr, world, "latency_s", usual)


def _together(world: World, event: Event) -> None:
    """Half of the fleet, or all of it, has the same fault at once."""
    fault = (_break, _block, _freeze_agent, _die)[event.detail % 4]
    alive = [agent for agent in world.agents if not agent.gone]
    chosen = alive if event.subject % 3 == 0 else alive[::2]
    event = event._replace(detail=event.detail + 3)
    if event.detail % 3 == 0:
        # For longer than a TTL.
        event = event._replace(amount=0.65 + 0.35 * event.amount)
    for number, agent in enumerate(chosen):
        world.time.after(number * (event.detail % 2) * 0.4, _suffer, world, agent, fault, event)


def _suffer(world: World, agent: Agent, fault: Callable[[World, Agent, Event], None], event: Event) -> None:
    if not agent.gone:
        fault(world, agent, event)


def _hush(world: World, event: Event) -> None:
    """For longer than a TTL nothing arrives from anybody, and no connection breaks; for less than two, or for more."""
    longer = event.detail is not None and event.detail % 2
    ttls = 2.5 + event.amount if longer else 1.1 + 0.7 * event.amount
    seconds = world.rules.lease_ttl_ms / 1000 * ttls
    for agent in world.agents:
        agent.up_blocked_until = max(agent.up_blocked_until, world.time.now + seconds)


WORLD_FAULTS: dict[str, Callable[[World, Event], None]] = {
    "kill": _kill,
    "kill_at": _kill_at,
    "freeze_daemon": _freeze_daemon,
    "disk_stall": _disk_stall,
    "disk_fail": _disk_fail,
    "jump": _jump,
    "lag": _lag,
    "operator_drain": _operator_drain,
    "hush": _hush,
    "together": _together,
}
