"""Runs seeds: `python -m tests.simulation --seeds 1000`, or one with its history: `--seed 42`."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import re
import sys
import time
from pathlib import Path

from tests.simulation.plan import Plan, make
from tests.simulation.progress import Progress
from tests.simulation.violation import Violation
from tests.simulation.world import World

CHUNK = 20
CHUNKS_PER_PROCESS = 25
"""After so many a process ends and another takes its place: to end is cheaper than to collect what worlds leave behind."""
PROGRESS_SEEDS = 10_000
"""How often a long run says how far it is; a longer one keeps that as well."""


def failure_of(plan: Plan, history: list[str] | None = None) -> str | None:
    """Run a plan; return what it broke in words, or None."""
    try:
        World(plan, history).run()
    except Violation as violation:
        return str(violation)
    return None


def _kind(words: str | None) -> str:
    """Return what kind of violation it is: its words without names and numbers."""
    return re.sub(r"\S*\d\S*", "", words or "")


def shrink(plan: Plan, words: str, tries: int = 400) -> Plan:
    """Return a plan with fewer events that still breaks the same."""
    size = max(1, len(plan.events) // 2)
    while tries > 0:
        start = 0
        while start < len(plan.events) and tries > 0:
            fewer = plan._replace(events=plan.events[:start] + plan.events[start + size :])
            tries -= 1
            if _kind(failure_of(fewer)) == _kind(words):
                plan = fewer
            else:
                start += size
        if size == 1:
            break
        size //= 2
    return plan


def _failures(seeds: range) -> list[tuple[int, str]]:
    found = [(seed, failure_of(make(seed))) for seed in seeds]
    return [(seed, words) for seed, words in found if words is not None]


def replay(seed: int) -> int:
    """Print the shrunk history of one seed; return the exit status."""
    plan = make(seed)
    words = failure_of(plan)
    if words is None:
        print(f"seed {seed}: no violation")
        return 0
    small = shrink(plan, words)
    history: list[str] = []
    words = failure_of(small, history)
    print("\n".join(history))
    print(f"\nseed {seed}, {len(small.events)} of {len(plan.events)} events are enough: {words}")
    return 1


def run(first: int, count: int, processes: int, keep: Path) -> int:
    """Run many seeds; return the exit status. A long run goes on where it was cut off, by what it kept in a folder."""
    # A world leaves half a MiB behind, and nothing is collected while the process lives.
    gc.freeze()
    gc.disable()
    progress = Progress(keep if count > PROGRESS_SEEDS else None, first, count)
    start, end = time.monotonic() - progress.seconds, first + count
    chunks = [range(at, min(at + CHUNK, end)) for at in range(progress.next, end, CHUNK)]
    pool = multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=CHUNKS_PER_PROCESS)
    for chunk, found in zip(chunks, pool.imap(_failures, chunks), strict=True):
        for seed, words in found:
            print(f"seed {seed}: {words}    (make sim SEED={seed})", flush=True)
        progress.judged(chunk.stop, found, time.monotonic() - start)
        done = progress.next - first
        if done % PROGRESS_SEEDS == 0:
            print(f"{done} seeds from {first} on in {progress.words()}", flush=True)
    pool.terminate()
    print(f"{count} seeds in {progress.words()}, {1000 * progress.seconds / max(count, 1):.1f} ms each")
    return 1 if progress.violations else 0


def main() -> int:
    """Run the simulator from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="run only this one and print its history, shrunk")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--keep", type=Path, default=Path("build/sim"), help="where long runs keep how far they are"
    )
    parser.add_argument("--mutants", type=int, help="give a sample of so many mutants to the seeds; 0: all")
    parser.add_argument("--only", help="of the mutants, those whose names are the lines of this file")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return replay(arguments.seed)
    if arguments.mutants is not None or arguments.only is not None:
        # Imports this module.
        from tests.simulation import mutants

        return mutants.main(arguments.seeds, arguments.mutants or 0, arguments.only)
    return run(arguments.first, arguments.seeds, arguments.processes, arguments.keep)


if __name__ == "__main__":
    sys.exit(main())
