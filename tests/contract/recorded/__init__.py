"""Clients of former contracts, recorded as the bytes they sent: `record.py` makes a recording, `replay.py` plays it."""
