"""What `meshctl doctor` makes of the mesh's own answers. Pure functions: an answer in, checks out."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from agentmesh.v1 import agent_pb2, auth_service_pb2, registry_service_pb2
from meshctl import words
from meshctl.checks import Check, ok, skipped, wrong
from meshctl.output import length_of, moment, seconds_of

CLOCK_TOLERANCE_S = 5.0
TOKEN_WARNING_S = 15 * 60
#: Of min_free_bytes: with less left it will soon be reached.
DISK_WARNING_FACTOR = 4
#: What one ping costs meshd (measured), and the share of a core that pings may take.
PING_COST_S, PING_SHARE = 70e-6, 0.15
#: A frozen host must be found in this time unless the fleet is too large for such a pace.
UNREACHABLE_S = 5.0
#: Who was lost earlier will hardly be waited for. The mesh forgets no agent.
MISSED_S = 7 * 86_400
#: What meshd says of agents whose credentials were taken away.
REVOKED = "its identity was revoked"
MIB = 1024 * 1024

Status = registry_service_pb2.GetMeshStatusResponse
#: The checks of `of_status`, in order.
NAMES = ("versions", "clock", "storage", "keepalive", "queues", "agents")


def of_token(
    caller: auth_service_pb2.IntrospectTokenResponse | None, source: str, now: datetime.datetime
) -> Check:
    """Tells who calls and for how long still; None is the local operator."""
    if caller is None:
        return ok("token", "none needed: you are the local operator")
    left_s = (moment(caller.expire_time) - now).total_seconds()
    scope = f", narrowed to {', '.join(caller.scope)}" if caller.scope else ""
    result = f"{caller.subject}{scope}, from {source}, good for {length_of(left_s)}"
    if left_s < TOKEN_WARNING_S:
        return wrong("token", result, "have a fresh one issued, then: meshctl login")
    return ok("token", result)


def of_status(
    status: Status, own_version: str, ask_s: float, answer_s: float, lost: Sequence[agent_pb2.Agent] = ()
) -> Iterator[Check]:
    """Yields the checks in NAMES; the answer was asked for and came at these local times.

    ``lost`` are the lost agents, to tell those that nobody misses; without them all count as missed.
    """
    yield _versions(status, own_version)
    if status.HasField("server_time"):
        yield _clock(moment(status.server_time).timestamp(), ask_s, answer_s)
        yield _storage(status.storage)
        yield _keepalive(status)
    else:
        for name in ("clock", "storage", "keepalive"):
            yield skipped(name, "this meshd is too old to tell")
    yield from _queues(status)
    yield _agents(status, sum(not _is_missed(agent, answer_s) for agent in lost))


def _versions(status: Status, own_version: str) -> Check:
    package = status.DESCRIPTOR.file.package
    result = f"meshctl {own_version}, meshd {status.version}, contract {package}"
    theirs, ours = _major_minor(status.version), _major_minor(own_version)
    if not status.HasField("server_time") or (theirs and ours and theirs < ours):
        return wrong("versions", f"{result}: meshd is older", "upgrade meshd: docs/operating.md, Upgrade")
    if theirs and ours and (theirs[0], theirs[1] - 1) > ours:
        return wrong("versions", f"{result}: meshctl is more than one version behind", "upgrade meshctl here")
    return ok("versions", result)


def _clock(server_s: float, ask_s: float, answer_s: float) -> Check:
    # meshd read its clock somewhere between the two; half of that time is all that one can be wrong.
    ahead_s = server_s - (ask_s + answer_s) / 2
    uncertain_s = (answer_s - ask_s) / 2
    if abs(ahead_s) - uncertain_s <= CLOCK_TOLERANCE_S:
        return ok("clock", f"agrees with meshd's within {max(abs(ahead_s), uncertain_s):.1g} s")
    which = "behind" if ahead_s > 0 else "ahead of"
    return wrong(
        "clock",
        f"this host is {length_of(abs(ahead_s))} {which} meshd: ages and ends of tokens are shown wrongly",
        "set both clocks by NTP: timedatectl set-ntp true",
    )


def _storage(storage: registry_service_pb2.StorageStatus) -> Check:
    free_mib, least_mib = storage.free_bytes // MIB, storage.min_free_bytes // MIB
    result = f"{storage.engine}, {free_mib:,} MiB free on its disk; new work is refused below {least_mib:,}"
    if storage.free_bytes < DISK_WARNING_FACTOR * storage.min_free_bytes:
        return wrong("storage", result, _FREE_SPACE)
    return ok("storage", result)


#: Deleted tasks make room for new ones, but the file of the database keeps its size.
_FREE_SPACE = (
    "free space on the disk of meshd's data_dir, or enlarge it; lower min_free_mib if less is enough; "
    "retention_days frees none"
)


def _keepalive(status: Status) -> Check:
    pace_s, unreachable_s = seconds_of(status.keepalive), seconds_of(status.bounds.unreachable)
    connected = sum(
        entry.count
        for namespace in status.namespaces
        for entry in namespace.agents
        if entry.health not in (agent_pb2.HEALTH_DECLARED, agent_pb2.HEALTH_LOST)
    )
    fitting_s = connected * PING_COST_S / PING_SHARE
    result = f"a ping every {length_of(pace_s)}: frozen hosts and cut networks are found within {length_of(unreachable_s)}"
    if pace_s < fitting_s:
        cost = connected * PING_COST_S / pace_s
        return wrong(
            "keepalive",
            f"{result}; with {connected:,} agents pings cost meshd {cost:.0%} of a core",
            "restart meshd: it paces its pings by the sessions that it remembers then",
        )
    if unreachable_s > UNREACHABLE_S and fitting_s <= 1:
        return wrong(
            "keepalive",
            f"{result}, later than need be",
            "restart meshd, which paces its pings anew, or lower keepalive_ms in its settings; default 1000",
        )
    return ok("keepalive", result)


def _queues(status: Status) -> Iterator[Check]:
    if seconds_of(status.hold_remaining) > 0:
        yield skipped("queues", "meshd has just started: agents are still coming back")
        return
    stuck = [entry for entry in status.namespaces if entry.unplaceable_count]
    for entry in stuck:
        yield wrong(
            "queues",
            f"{entry.unplaceable_count:,} queued in {entry.namespace} that no agent in reach can take",
            f"meshctl task why {entry.unplaceable_task_id} --namespace {entry.namespace}",
        )
    if not stuck:
        yield ok("queues", "an agent in reach can take every queued task")


def is_any_lost(status: Status) -> bool:
    """True when `of_status` should be given the lost agents."""
    return any(
        entry.count and entry.health == agent_pb2.HEALTH_LOST
        for namespace in status.namespaces
        for entry in namespace.agents
    )


def _is_missed(agent: agent_pb2.Agent, now_s: float) -> bool:
    since_s = now_s - moment(agent.health_time).timestamp()
    return agent.health_cause != REVOKED and since_s < MISSED_S


def _agents(status: Status, gone_count: int) -> Check:
    counts: Counter[agent_pb2.Health.ValueType] = Counter()
    for namespace in status.namespaces:
        for entry in namespace.agents:
            counts[entry.health] += entry.count
    counts[agent_pb2.HEALTH_LOST] -= min(gone_count, counts[agent_pb2.HEALTH_LOST])
    bad = [
        health
        for health in (agent_pb2.HEALTH_LOST, agent_pb2.HEALTH_DEAF, agent_pb2.HEALTH_SUSPECT)
        if counts[health]
    ]
    result = ", ".join(
        f"{count} {words.health_word(health)}" for health, count in sorted(counts.items()) if count
    )
    if gone_count:
        result = f"{result}, " * bool(result) + f"{gone_count} revoked or lost for more than a week"
    if bad:
        return wrong("agents", result, f"meshctl status --health {words.health_word(bad[0])}")
    return ok("agents", result or "none known")


def _major_minor(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None
