"""Draws the kept runs and writes their tables: `make bench-plots`, in an environment of its own.

docs/benchmarks/history.png shows how the figures went from commit to commit, docs/benchmarks/peers.png the newest run
beside the peers; whiskers reach from the slowest to the fastest round.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from bench import page
from bench.record import KEPT, in_order

Record = dict[str, Any]
PANELS = {
    "tasks a second": ("batched, 8 agents", "batched, 100 agents", "one per call"),
    "server CPU, µs a task": (
        "batched, 8 agents: server CPU",
        "batched, 100 agents: server CPU",
        "one per call: server CPU",
    ),
    "relative to the bare echo": ("batched by 50 / echo stream", "one per call / echo calls"),
    "ms at 200 tasks a second, p99": ("200/s: submit → assigned, p99", "200/s: submit → result, p99"),
}


def rows_of(record: Record) -> dict[str, Any]:
    return {row["name"]: row for row in record["rows"]}


def history(records: list[Record]) -> None:
    """Draw each panel's figures over the commits."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    commits = [record["commit"][:7] for record in records]
    for panel, (title, names) in zip(axes.flat, PANELS.items(), strict=True):
        for name in names:
            points = [
                (commit, rows_of(record)[name])
                for commit, record in zip(commits, records, strict=True)
                if name in rows_of(record)
            ]
            medians = [row["median"] for _, row in points]
            below = [row["median"] - row["min"] for _, row in points]
            above = [row["max"] - row["median"] for _, row in points]
            where = [commit for commit, _ in points]
            panel.errorbar(where, medians, yerr=(below, above), marker="o", capsize=3, label=name)
        panel.set_title(title)
        panel.set_ylim(bottom=0)
        panel.tick_params(axis="x", rotation=30)
        panel.grid(axis="y", alpha=0.3)
        panel.legend(fontsize="small")
    figure.savefig(KEPT / "history.png", dpi=80)


def peers(record: Record) -> None:
    """Draw each rate of the newest run beside the peers, on a scale of powers of ten."""
    rates = [row for row in reversed(record["rows"]) if row["unit"] == "tasks/s"]
    figure, panel = plt.subplots(figsize=(11, 0.3 * len(rates) + 1.4), layout="constrained")
    medians = [row["median"] for row in rates]
    whiskers = [
        [row["median"] - row["min"] for row in rates],
        [row["max"] - row["median"] for row in rates],
    ]
    colours = ["tab:blue" if row["name"].startswith("Agent Mesh") else "tab:gray" for row in rates]
    bars = panel.barh([row["name"] for row in rates], medians, xerr=whiskers, color=colours, capsize=2)
    panel.bar_label(bars, labels=[f"{median:,.0f}" for median in medians], padding=8, fontsize="small")
    panel.set_xscale("log")
    panel.set_xlim(10, 10 * max(medians))
    panel.set_xlabel(f"no-ops a second, results known to the submitter; commit {record['commit'][:7]}")
    figure.savefig(KEPT / "peers.png", dpi=80)


def main() -> None:
    """Draw what there is."""
    mpl.use("agg")
    if runs := in_order("run"):
        history(runs)
    if beside_peers := in_order("peers"):
        peers(beside_peers[-1])
    page.write()


if __name__ == "__main__":
    main()
