"""What operators and the authority ask for: agents declared, identities taken away."""

from __future__ import annotations

from meshd.domain.commands import Declare, Declared, RevokeAgent
from meshd.domain.effects import Effects
from meshd.domain.handlers.session import lose_session
from meshd.domain.state import Namespace
from meshd.domain.values import Agent, Health, Now


def declare(ns: Namespace, command: Declare, now: Now, out: Effects) -> None:
    """Make an agent known before its process runs. A running agent keeps what it said of itself."""
    agent_id = command.spec.agent_id
    agent = ns.agents.get(agent_id)
    created = agent is None
    if agent is None:
        cause = "declared, no process has registered yet"
        agent = Agent(ns.name, command.spec, now.wall_ms, Health.DECLARED, now.wall_ms, cause)
        ns.add_agent(agent)
        ns.set_health(agent, Health.DECLARED, cause, now, out)
    elif agent.session is None and agent.spec != command.spec:
        ns.agent_index.replace(agent, command.spec)
        ns.agent_changed(agent, out)
    out.writes.agents[ns.name, agent_id] = agent
    out.replies.append((command.ticket, Declared(agent, created)))


def revoke_agent(ns: Namespace, command: RevokeAgent, now: Now, out: Effects) -> None:
    """End the session of an agent whose identity was taken away."""
    agent = ns.agents.get(command.agent_id)
    if agent is not None and agent.session is not None:
        lose_session(ns, agent.session, "revoked", "its identity was revoked", now, out)
    out.replies.append((command.ticket, None))
