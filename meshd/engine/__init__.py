"""Asyncio around the domain: mailboxes, timers, sessions, commits. No gRPC, no SQL."""
