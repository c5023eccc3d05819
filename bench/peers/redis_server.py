"""Redis for the peers that keep their tasks in it: append-only file on, as one needs who must not lose tasks."""

from __future__ import annotations

from bench.peers.peer import Processes, Setting, answers, free_port


def start_redis(processes: Processes, setting: Setting) -> str:
    """Start a fresh server; returns its URL."""
    port = free_port()
    sync = "always" if setting.synced else "everysec"
    options = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "yes", "appendfsync": sync}
    flags = [word for key, value in options.items() for word in (f"--{key}", value)]
    processes.start(setting.server_cores, "redis-server", *flags, "--dir", str(processes.folder))
    processes.until(lambda: answers(port))
    return f"redis://127.0.0.1:{port}/0"
