"""The same no-op work on the systems that one would take instead: `make bench-peers`.

Each peer is one file with a class `Here` of the shape in `peer.py`, run by `drive.py` within an environment of the
peer's own under build/peers/. Those environments hold nothing of ours, so these files import no more than the peer,
the standard library and `bench.processes`.
"""
