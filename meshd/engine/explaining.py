"""Explaining why a task is where it is, among ten thousand agents and behind a million tasks, without standing still for it.

Rule: agents are judged and tasks counted a few at a time; the agents that are shown are judged again at the end, together.
"""

from __future__ import annotations

import time

from meshd.domain.discovery import AgentFilter
from meshd.domain.explain import Explanation, best_verdicts, explanation
from meshd.domain.state import Namespace
from meshd.domain.values import Agent, Task, TaskState
from meshd.engine.selection import in_turns


async def explain(ns: Namespace, task: Task, verdicts: int) -> Explanation:
    """Return a sentence for people and the best verdicts on agents of the namespace, at most so many."""
    best: list[Agent] = []
    async for agents in in_turns(ns.agent_index.matching(AgentFilter(), "")):
        now_mono = time.monotonic()
        best = [each.agent for each in best_verdicts(task, [*best, *agents], now_mono, verdicts)]
    before = 0
    if task.state is TaskState.QUEUED:
        async for count in in_turns(ns.pools.pool(task.spec.requirements).queue.before(task)):
            before += count
    return explanation(ns, task, best_verdicts(task, best, time.monotonic(), verdicts), before)
