"""Durable state in SQLite: ``sqlite.SqliteStore`` is the store; every other file here serves it."""
