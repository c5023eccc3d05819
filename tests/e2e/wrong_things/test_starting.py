"""Wrong things about starting meshd: its port, its data, its settings, its key, its disk."""

from __future__ import annotations

import re
import shutil
import sqlite3
from pathlib import Path

from tests.e2e.wrong_things import page
from tests.e2e.wrong_things.house import House
from tests.e2e.wrong_things.small_disk import SmallDisk
from tests.unit.ops.certificates import write_certificate


def test_a_port_in_use(house: House) -> None:
    grpc_port = house.start_meshd("--listen", house.meshd.tcp_address).must_be_clear()
    http_port = house.start_meshd("--http-listen", house.meshd.tcp_address).must_be_clear()
    page.check("A port in use", f"{grpc_port}\n\n{http_port}")


def test_a_second_meshd_on_the_same_data(house: House) -> None:
    seen = house.start_meshd("--data-dir", str(house.meshd.data_dir)).must_be_clear()
    page.check("A second meshd on the same data", str(seen))


def test_a_second_meshd_on_the_same_socket(house: House) -> None:
    seen = house.start_meshd("--socket", str(house.meshd.socket_path)).must_be_clear()
    page.check("A second meshd on the same socket", str(seen))


def test_an_unknown_setting(house: House) -> None:
    (house.folder / "meshd.toml").write_text('lsten = "127.0.0.1:7600"\n')
    flag = house.start_meshd("--lsten", "127.0.0.1:7600").must_be_clear()
    file = house.start_meshd("--config", f"{house.folder}/meshd.toml").must_be_clear()
    variable = house.start_meshd(MESHD_LSTEN="127.0.0.1:7600").must_be_clear()
    page.check("An unknown setting", f"{flag}\n\n{file}\n\n$ MESHD_LSTEN=127.0.0.1:7600 {str(variable)[2:]}")


def test_a_tls_key_that_does_not_match(house: House, tmp_path: Path) -> None:
    cert, _ = write_certificate(tmp_path)
    _, key = write_certificate(tmp_path, "other")
    seen = house.start_meshd("--tls-cert", str(cert), "--tls-key", str(key)).must_be_clear()
    page.check("A TLS key that does not match", str(seen).replace(str(tmp_path), "/etc/meshd"))


def stopped_copy(house: House, to: Path) -> Path:
    """The data of the house as a stopped meshd leaves them; returns the database."""
    with (
        sqlite3.connect(house.meshd.data_dir / "mesh.db") as source,
        sqlite3.connect(to / "mesh.db") as target,
    ):
        source.backup(target)
    source.close()
    target.close()
    shutil.copytree(house.meshd.data_dir / "keys", to / "keys")
    return to / "mesh.db"


def test_a_corrupt_database(house: House, tmp_path: Path) -> None:
    database = stopped_copy(house, tmp_path)
    content = database.read_bytes()
    database.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
    torn = house.start_meshd("--data-dir", str(tmp_path)).must_be_clear()
    database.write_bytes(b"This was never a database.\n" * 400)
    foreign = house.start_meshd("--data-dir", str(tmp_path)).must_be_clear()
    seen = f"{torn}\n\n{foreign}".replace(str(tmp_path), "/var/lib/meshd")
    page.check("A corrupt database", seen)
    assert database.read_bytes().startswith(b"This was never")  # what there was is left for those who mend it


def test_a_database_of_a_newer_meshd(house: House, tmp_path: Path) -> None:
    database = stopped_copy(house, tmp_path)
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = database.read_bytes()
    seen = str(house.start_meshd("--data-dir", str(tmp_path)).must_be_clear())
    seen = re.sub(r"up to \d{4}", "up to 0003", seen)
    page.check("A database of a newer meshd", seen.replace(str(tmp_path), "/var/lib/meshd"))
    assert database.read_bytes() == before


def test_a_data_directory_that_is_read_only(house: House, tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk", 4) as disk:
        disk.read_only()
        seen = house.start_meshd(
            "--data-dir", str(tmp_path / "disk" / "data"), before=disk.inside
        ).must_be_clear()
    page.check("A data directory that is read-only", str(seen).replace(str(tmp_path / "disk"), "/srv"))


def test_a_disk_that_is_full_at_the_start(house: House, tmp_path: Path) -> None:
    data = tmp_path / "disk" / "data"
    with SmallDisk(tmp_path / "disk", 1) as disk:
        disk.fill()
        nothing = house.start_meshd("--data-dir", str(data), before=disk.inside).must_be_clear()
        disk.free()
        disk.fill(leave_kib=64)
        little = house.start_meshd("--data-dir", str(data), before=disk.inside).must_be_clear()
    page.check(
        "A disk that is full at the start", f"{nothing}\n\n{little}".replace(str(data), "/var/lib/meshd")
    )
