"""Alembic's scripts: how a database gets from one revision to the next."""
