"""Runs the same no-ops on ours and on every peer, in turn, round after round; prints one table and keeps a record.

From the first submit until the submitter knows the last result. A peer is run twice a round: its server pinned apart
from workers and submitter as ours is, and free to use every core; it is compared by the better of the two. A peer
without its environment (`make bench-peers` makes them) or its server is named with the reason and left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.record import Figure, Goal, Read, Round, in_digits, keep, progress, summarise
from bench.rounds import CALLS_IN_FLIGHT, mesh

ENVIRONMENTS = Path("build/peers").resolve()
TIMEOUT_S = 180
PINNED, FREE = "pinned", "free"


@dataclass(frozen=True)
class Contender:
    """One way to run one system, and in what it is like ours."""

    name: str
    publishing: str
    stored: str
    guarded: str
    count: int
    environment: str = ""
    module: str = ""
    words: tuple[str, ...] = ()
    placements: tuple[str, ...] = (PINNED, FREE)


SYNCED = "synced to disk"
REDIS = "log, synced each second"
REDIS_SYNCED = "log, synced each time"
OPEN = "no"
ALL_AT_ONCE, ONE_BY_ONE = "250 a call", "one per call"

OURS_BATCHED = Contender("Agent Mesh, batched", ALL_AT_ONCE, SYNCED, "yes", 50_000, placements=(PINNED,))
OURS_SINGLE = Contender("Agent Mesh, one per call", ONE_BY_ONE, SYNCED, "yes", 10_000, placements=(PINNED,))
PEERS = (
    Contender("Celery + Redis", ONE_BY_ONE, REDIS, OPEN, 1_500, "celery", "celery_redis"),
    Contender(
        "Celery + Redis, synced", ONE_BY_ONE, REDIS_SYNCED, OPEN, 100, "celery", "celery_redis", ("synced",)
    ),
    Contender("Dramatiq + Redis", ONE_BY_ONE, REDIS, OPEN, 4_000, "dramatiq", "dramatiq_redis"),
    Contender(
        "Dramatiq + Redis, synced",
        ONE_BY_ONE,
        REDIS_SYNCED,
        OPEN,
        300,
        "dramatiq",
        "dramatiq_redis",
        ("synced",),
    ),
    Contender("Dask", "all in one call", "nothing", OPEN, 2_000, "dask", "dask_distributed"),
    Contender("Ray", "without waiting", "nothing", OPEN, 5_000, "ray", "ray_tasks", placements=(FREE,)),
    Contender(
        "JetStream, batched",
        "without waiting",
        "file, tasks only",
        OPEN,
        20_000,
        *("jetstream", "jetstream"),
        ("batched",),
    ),
    Contender(
        "JetStream, batched, synced",
        "atomic, 250",
        SYNCED,
        OPEN,
        5_000,
        "jetstream",
        "jetstream",
        ("batched", "synced"),
    ),
    Contender(
        "JetStream, one per call", ONE_BY_ONE, "file, tasks only", OPEN, 20_000, "jetstream", "jetstream"
    ),
    Contender(
        "JetStream, one per call, synced",
        ONE_BY_ONE,
        SYNCED,
        OPEN,
        2_000,
        "jetstream",
        "jetstream",
        ("synced",),
    ),
)
GOALS = {
    (OURS_BATCHED.name, "Celery + Redis"): 20,
    (OURS_BATCHED.name, "Dramatiq + Redis"): 8,
    (OURS_BATCHED.name, "JetStream, batched"): 1.5,
    (OURS_SINGLE.name, "Dramatiq + Redis"): 2,
}


def run(peer: Contender, placement: str) -> float:
    """Run a peer once in its environment; returns no-ops a second."""
    python = ENVIRONMENTS / peer.environment / "bin" / "python"
    if not python.exists():
        raise RuntimeError(f"build/peers/{peer.environment} is not there")
    words = (*peer.words, *((PINNED,) if placement == PINNED else ()))
    command = (python, "-m", "bench.peers.drive", peer.module, str(peer.count), *words)
    driver = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, errors = driver.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        driver.terminate()  # it stops what it started
        driver.communicate()
        raise RuntimeError(f"{peer.count} no-ops took more than {TIMEOUT_S} s") from None
    if driver.returncode:
        raise RuntimeError((errors.strip().splitlines() or ["it said nothing"])[-1])
    return float(json.loads(out.splitlines()[-1])["per_s"])


def one_round(peers: Sequence[Contender], skipped: dict[str, str]) -> Round:
    """Run everything once; a peer that fails is skipped from then on."""
    calls = ("--batch", "1", "--in-flight", str(CALLS_IN_FLIGHT))
    figures: Round = {
        OURS_BATCHED.name: {PINNED: mesh(OURS_BATCHED.count, "--watch")["per_s"]},
        OURS_SINGLE.name: {PINNED: mesh(OURS_SINGLE.count, "--watch", *calls)["per_s"]},
    }
    for peer in peers:
        for placement in peer.placements if peer.name not in skipped else ():
            progress(f"{peer.name}, {placement}")
            try:
                figures.setdefault(peer.name, {})[placement] = run(peer, placement)
            except RuntimeError as error:
                skipped[peer.name] = str(error)
                progress(f"skipped: {error}")
                break
    return figures


def at(name: str, placement: str) -> Read:
    return lambda round_: float(round_[name][placement])


def better(ours: str, peer: str) -> Read:
    """Divide ours by the better placement of a peer, within a round."""
    return lambda round_: float(round_[ours][PINNED] / max(round_[peer].values()))


def figures_of(contenders: Sequence[Contender]) -> list[Figure]:
    """Return the rows: rates, then ratios."""
    rates = [
        Figure(f"{each.name}, {placement}", "tasks/s", at(each.name, placement))
        for each in (OURS_BATCHED, OURS_SINGLE, *contenders)
        for placement in each.placements
    ]
    ratios = [
        Figure(f"{ours.name} / {each.name}", "ratio", better(ours.name, each.name), goal)
        for ours in (OURS_BATCHED, OURS_SINGLE)
        for each in contenders
        for bound in [GOALS.get((ours.name, each.name))]
        for goal in [None if bound is None else Goal("≥", bound)]
    ]
    return rates + ratios


def table(contenders: Sequence[Contender], rounds: Sequence[Round]) -> str:
    """Return one line a contender: its rates, ours relative to it, and in what it differs."""
    ours = (OURS_BATCHED.name, OURS_SINGLE.name)
    heads = ("", "tasks/s, pinned apart", "tasks/s, all cores", "ours batched ÷ it", "ours one per call ÷ it")
    traits = ("published", "stored before it is acknowledged", "authenticated, audited")
    lines = [
        f"| {' | '.join(heads + traits)} |",
        "|---" + "|--:" * (len(heads) - 1) + "|---" * len(traits) + "|",
    ]
    for each in (OURS_BATCHED, OURS_SINGLE, *contenders):
        cells = [
            in_digits(median(round_[each.name][placement] for round_ in rounds))
            if placement in each.placements
            else ""
            for placement in (PINNED, FREE)
        ]
        for our_name in ours:
            ratio = in_digits(median(better(our_name, each.name)(round_) for round_ in rounds))
            bound = GOALS.get((our_name, each.name))
            cells.append("" if each.name in ours else ratio + (f" (goal ≥ {bound:g})" if bound else ""))
        lines.append(f"| {' | '.join([each.name, *cells, each.publishing, each.stored, each.guarded])} |")
    return "\n".join(lines)


def main() -> None:
    """Run all rounds and keep their record."""
    parser = argparse.ArgumentParser(prog="bench.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="peers whose name has this word")
    options = parser.parse_args()
    peers = [peer for peer in PEERS if options.only.lower() in peer.name.lower()]
    skipped: dict[str, str] = {}
    rounds = []
    for number in range(options.rounds):
        progress(f"round {number + 1} of {options.rounds}")
        rounds.append(one_round(peers, skipped))
    present = [peer for peer in peers if peer.name not in skipped]
    text = table(present, rounds)
    print(text)
    for name, why in skipped.items():
        print(f"\nSkipped: {name}: {why}")
    rows = summarise(figures_of(present), rounds)
    print(f"\nkept as {keep('peers', rows, options.rounds, skipped=skipped, table=text)}")


if __name__ == "__main__":
    main()
