"""Compares two kept runs: `python -m bench.compare A B`, each a commit or a file.

Whether a difference is real shows in the extremes: it is marked where all rounds of one run lie beyond all of the other.
"""

from __future__ import annotations

import sys

from bench.record import find, in_digits


def main(first: str, second: str) -> None:
    """Print each figure of both runs, and their ratio."""
    a, b = find(first), find(second)
    rows_a, rows_b = ({row["name"]: row for row in record["rows"]} for record in (a, b))
    if a["machine"] != b["machine"]:
        print("The machines differ: compare the ratios only.\n")
    print(f"| {'':36} | {a['commit'][:10]:>10} | {b['commit'][:10]:>10} | B / A |      |")
    print(f"|{'-' * 38}|{'-' * 11}:|{'-' * 11}:|------:|------|")
    for name in (each for each in rows_a if each in rows_b):
        old, new = rows_a[name], rows_b[name]
        apart = old["max"] < new["min"] or new["max"] < old["min"]
        ratio = new["median"] / old["median"] if old["median"] else float("nan")
        print(
            f"| {name:36} | {in_digits(old['median']):>10} | {in_digits(new['median']):>10} "
            f"| {ratio:5.2f} | {'real' if apart else '':4} |"
        )
    for name in sorted(rows_a.keys() ^ rows_b.keys()):
        print(f"only in {'A' if name in rows_a else 'B'}: {name}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
