"""Measures the mesh on this machine: the cases of a round in turn, round after round; prints a table, keeps a record.

Quote medians and ratios: absolute figures move with the machine, a ratio is formed within one round.
"""

from __future__ import annotations

import argparse
from typing import Any

from bench.record import Figure, Goal, Read, Round, keep, progress, summarise, table
from bench.rounds import cases


def at_least(bound: float) -> Goal:
    return Goal("≥", bound)


def at_most(bound: float) -> Goal:
    return Goal("≤", bound)


def of(case: str, *path: str) -> Read:
    """Read a figure of a case."""

    def read(round_: Round) -> float:
        value: Any = round_[case]
        for key in path:
            value = value[key]
        return float(value)

    return read


def ratio(over: Read, under: Read) -> Read:
    """Divide two figures of one round."""
    return lambda round_: over(round_) / under(round_)


def rate(case: str) -> Read:
    return of(case, "per_s")


def cpu(case: str) -> Read:
    return of(case, "cpu_us")


FIGURES = (
    Figure("batched, 8 agents", "tasks/s", rate("batched"), at_least(20_000)),
    Figure("batched, 8 agents: server CPU", "µs/task", cpu("batched"), at_most(45)),
    Figure("batched, 100 agents", "tasks/s", rate("batched, 100 agents"), at_least(20_000)),
    Figure("batched, 100 agents: server CPU", "µs/task", cpu("batched, 100 agents"), at_most(45)),
    Figure("batched by 50", "tasks/s", rate("batched by 50")),
    Figure("echo stream, 50 a message", "items/s", rate("echo stream")),
    Figure("echo stream, 50 a message: CPU", "µs/msg", cpu("echo stream")),
    Figure(
        "batched by 50 / echo stream",
        "ratio",
        ratio(rate("batched by 50"), rate("echo stream")),
        at_least(0.06),
    ),
    Figure("echo calls, 250 a call", "items/s", rate("echo batched")),
    Figure("echo calls, 250 a call: CPU", "µs/call", cpu("echo batched")),
    Figure("batched / echo calls of 250", "ratio", ratio(rate("batched"), rate("echo batched"))),
    Figure("one per call", "tasks/s", rate("one per call")),
    Figure("one per call: server CPU", "µs/task", cpu("one per call")),
    Figure("echo calls", "calls/s", rate("echo")),
    Figure("echo calls: CPU", "µs/call", cpu("echo")),
    Figure("one per call / echo calls", "ratio", ratio(rate("one per call"), rate("echo")), at_least(0.6)),
    *(
        Figure(f"{case}: token / none", "ratio", ratio(rate(case), rate(f"{case}, no token")), at_least(0.8))
        for case in ("batched", "one per call")
    ),
    *(
        Figure(
            f"{case}: CPU, token / none", "ratio", ratio(cpu(case), cpu(f"{case}, no token")), at_most(1.25)
        )
        for case in ("batched", "one per call")
    ),
    Figure("200/s: submit → assigned, p50", "ms", of("200 per second", "assigned_ms", "p50"), at_most(2.5)),
    Figure("200/s: submit → assigned, p99", "ms", of("200 per second", "assigned_ms", "p99"), at_most(10)),
    Figure("200/s: submit → result, p50", "ms", of("200 per second", "result_ms", "p50")),
    Figure("200/s: submit → result, p99", "ms", of("200 per second", "result_ms", "p99"), at_most(15)),
    Figure("meshctl --help", "ms", of("command line", "help_ms"), at_most(250)),
    Figure("meshctl execute, no-op", "ms", of("command line", "execute_ms")),
    Figure("bare program, same calls", "ms", of("command line", "bare_ms")),
    Figure(
        "meshctl execute / bare program",
        "ratio",
        ratio(of("command line", "execute_ms"), of("command line", "bare_ms")),
        at_most(2),
    ),
)


def main() -> None:
    """Run all rounds and keep their record."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=50_000, help="tasks of a batched case")
    options = parser.parse_args()
    rounds: list[Round] = []
    for number in range(options.rounds):
        rounds.append({})
        for name, case in cases(options.tasks).items():
            progress(f"round {number + 1} of {options.rounds}: {name}")
            rounds[-1][name] = case()
    rows = summarise(FIGURES, rounds)
    print(table(rows))
    print(f"\nkept as {keep('run', rows, options.rounds, tasks=options.tasks)}")


if __name__ == "__main__":
    main()
