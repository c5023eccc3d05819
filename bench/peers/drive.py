"""Runs one peer once, within its environment: `python -m bench.peers.drive PEER COUNT [pinned] [batched] [synced]`.

Prints one line of JSON: no-ops a second from the first submit until the submitter knows the last result.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time

from bench.peers.peer import Peer, Setting

WARM_UP = 100


def main(name: str, count: int, words: set[str]) -> None:
    """Start the peer, warm it up, measure, and stop it whatever happens."""
    setting = Setting(**{word: word in words for word in ("pinned", "batched", "synced")})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else nobody would stop what was started
    os.sched_setaffinity(0, setting.load_cores)
    peer: Peer = importlib.import_module(f"bench.peers.{name}").Here(setting)
    try:
        peer.start()
        peer.submit(WARM_UP)
        peer.wait()
        begin = time.monotonic()
        peer.submit(count)
        peer.wait()
        print(json.dumps({"per_s": count / (time.monotonic() - begin)}), flush=True)
    finally:
        peer.stop()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), set(sys.argv[3:]))
