"""The command meshd as a process: what a person sees who starts it wrongly."""

import os
import re
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest
import structlog

from meshd import daemon
from meshd.store.schema import REVISIONS
from meshd.store.sqlite import SqliteStore

HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from meshd.__main__ import main
sys.exit(main({arguments}))
"""


def meshd(*arguments: str, hidden: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    program = HIDE.format(names=set(hidden) or "()", arguments=list(arguments))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MESHD_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment,
    )


def places(tmp_path: Path) -> list[str]:
    return ["--data-dir", str(tmp_path / "data"), "--socket", str(tmp_path / "s"), "--http-listen", ""]


EXTRA = ("structlog", "prometheus_client", "grpc_health", "sqlalchemy", "jwt")


def test_help_needs_none_of_the_daemons_packages() -> None:
    done = meshd("--help", hidden=("grpc", *EXTRA))
    assert done.returncode == 0
    for words in ("--data-dir", "backup", "restore", "Without one, meshd serves"):
        assert words in done.stdout
    assert meshd("restore", "--help", hidden=("grpc", *EXTRA)).returncode == 0


def test_the_version_needs_none_of_them_either() -> None:
    done = meshd("--version", hidden=("grpc", *EXTRA))
    assert (done.returncode, done.stdout) == (0, f"meshd {version('agentmesh-controlplane')}\n")


def test_without_its_extra_it_names_the_command_that_installs_it() -> None:
    done = meshd(hidden=EXTRA)
    assert done.returncode == 2
    assert "is missing" in done.stderr
    assert "pip install '.[meshd]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_two_lines(tmp_path: Path) -> None:
    done = meshd("--listen", "0.0.0.0:7600")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "meshd: listen 0.0.0.0:7600 is not loopback and would be served without TLS",
        "  next: set tls_cert and tls_key, or listen on 127.0.0.1; --insecure allows it all the same",
    ]


def test_a_port_in_use_is_told_without_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        done = meshd(*places(tmp_path), "--listen", address)
    assert done.returncode == 2
    assert f"meshd: listen {address}: another process has this port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_directory_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    done = meshd(*places(tmp_path), "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert str(tmp_path / "data") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_certificate_is_told(tmp_path: Path) -> None:
    done = meshd(*places(tmp_path), "--tls-cert", "/no/cert.pem", "--tls-key", "/no/key.pem")
    assert done.returncode == 2
    assert "tls_cert /no/cert.pem cannot be read" in done.stderr


def lay_down(database: Path, how: str) -> None:
    database.parent.mkdir()
    if how == "damaged":
        database.write_bytes(b"rubbish" * 1_000)
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        if how == "newer":
            connection.execute("CREATE TABLE alembic_version (version_num)")
            connection.execute("INSERT INTO alembic_version VALUES ('9999')")
        else:
            connection.execute("CREATE TABLE something (x)")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("newer", r"has revision 9999, this meshd knows up to \d{4}\n  next: run the newer meshd"),
        ("damaged", r"is damaged: .*\n  next: keep a copy of it and restore the newest backup"),
        ("foreign", r"was not made by meshd\n  next: name a data directory"),
    ],
)
def test_a_database_it_cannot_use_is_told_and_left_as_it_is(tmp_path: Path, how: str, words: str) -> None:
    database = tmp_path / "data" / "mesh.db"
    lay_down(database, how)
    serving = meshd(*places(tmp_path), "--listen", "127.0.0.1:0")
    backing_up = meshd("backup", str(tmp_path / "b.db"), "--data-dir", str(tmp_path / "data"))
    for done in (serving, backing_up):
        assert done.returncode == 2
        assert re.fullmatch(f"meshd: .*{words}.*\n", done.stderr)
    assert not (tmp_path / "b.db").exists()
    if how == "damaged":
        assert database.read_bytes() == b"rubbish" * 1_000


def test_backup_and_restore_from_the_shell(tmp_path: Path) -> None:
    data, file = str(tmp_path / "data"), str(tmp_path / "b.db")
    missing = meshd("backup", file, "--data-dir", data)
    assert missing.returncode == 2
    assert (
        f"{data} holds no database of a mesh\n  next: name the data directory (--data-dir)" in missing.stderr
    )
    with closing(SqliteStore(Path(data))) as store:
        store.load()
        done = meshd("--data-dir", data, "backup", file)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"backup {file}: 0 tasks (0 open), 0 agents in 2 namespaces, ")
        running = meshd("restore", file, "--data-dir", data, "--replace")
        assert running.returncode == 2
        assert "another meshd (pid" in running.stderr
    refused = meshd("restore", file, "--data-dir", data)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[1].startswith("  next: name another data directory (--data-dir), or")
    restored = meshd("restore", file, "--data-dir", data, "--replace")
    assert (restored.returncode, restored.stderr) == (0, "")
    assert restored.stdout.splitlines()[-1] == "next: start meshd"


def test_a_command_it_does_not_know_is_misuse() -> None:
    done = meshd("bakcup", "b.db")
    assert done.returncode == 2
    assert "invalid choice: 'bakcup'" in done.stderr


def test_an_upgrade_is_told_with_the_copy_to_go_back_to(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logged:
        for revision in ("0001", REVISIONS[-1]):
            daemon._say_what_was_opened(tmp_path / "mesh.db", revision)
    (line,) = logged
    assert (line["former"], line["revision"], line["copy"]) == (
        "0001",
        REVISIONS[-1],
        str(tmp_path / "mesh-0001.db"),
    )
