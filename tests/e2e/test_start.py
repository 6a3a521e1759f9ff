"""Starting and stopping: what is kept, what is refused in one line, what Ctrl-C leaves behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.processes import alive, descendants, free_port, wait_until
from tests.support.service import Service, ready
from tests.support.services import PostgresServer, RedisServer

Start = Callable[..., Service]
SERVE = [sys.executable, "-m", "apishield.cli", "serve"]
SECRET = "1:" + "A" * 43 + "="


def serve(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to be refused."""
    settings = {"PATH": os.environ["PATH"], "APISHIELD_PORT": "0", **environment}
    return subprocess.run(SERVE, cwd=directory, env=settings, capture_output=True, text=True, timeout=60, check=False)


def refused(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one line of a refused start."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("apishield: ")]
    assert (done.returncode, len(lines)) == (code, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    return lines[0]


def test_a_second_start_keeps_all_data_and_shows_no_token_again(start_service: Start) -> None:
    service = start_service()
    made, token = service.sign_up(), service.operator_token
    assert service.terminate() == 0
    first_log = service.log
    service.start()
    again = service.log[len(first_log) :]
    assert "operator-token renew" in again
    assert token not in service.log  # not a terminal: only the path was said
    own = httpx2.get(f"{service.url}/v1/tenant", headers={"Authorization": f"Bearer {made['token']}"})
    assert own.json()["id"] == made["id"]
    everyone = httpx2.get(f"{service.url}/v1/tenants", headers={"Authorization": f"Bearer {token}"})
    assert [tenant["id"] for tenant in everyone.json()["data"]] == [made["id"]]


def test_private_files_are_readable_by_their_owner_only(start_service: Start) -> None:
    service = start_service()
    service.sign_up()
    for name in ("secret", "operator-token", "apishield.db"):
        assert (service.data_dir / name).stat().st_mode & 0o077 == 0


def test_the_operators_token_is_shown_on_a_terminal(tmp_path: Path) -> None:
    import pty

    master, slave = pty.openpty()
    environment = {
        "PATH": os.environ["PATH"],
        "APISHIELD_PORT": "0",
        "APISHIELD_DATA_DIR": str(tmp_path),
        "TERM": "dumb",
    }
    with subprocess.Popen(SERVE, env=environment, stdout=slave, stderr=slave, stdin=slave) as process:
        os.close(slave)
        shown = b""
        while b"Ctrl" not in shown and b"curl" not in shown:
            shown += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    os.close(master)
    assert re.search(rb"aso_[0-9A-Za-z]{36}", shown)
    assert not (tmp_path / "operator-token").exists()


def test_a_second_interrupt_ends_at_once_what_is_in_flight_and_logs_no_traceback(start_service: Start) -> None:
    service = start_service()
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.settimeout(20)
        head = "POST /v1/tenants HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        connection.sendall(head.encode() + b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n")
        assert b"100 Continue" in connection.recv(4096)  # it waits for the body now
        stopping = threading.Thread(target=service._end, args=(signal.SIGINT,))
        stopping.start()
        wait_until(lambda: not ready(service.url), "new requests to be refused")
        assert service._end(signal.SIGINT) == 0
        stopping.join()
    assert "Traceback" not in service.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_lets_a_request_in_flight_finish(start_service: Start, number: signal.Signals) -> None:
    service = start_service()
    body = b'{"name": "Late"}'
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.settimeout(20)
        head = f"POST /v1/tenants HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n")
        assert b"100 Continue" in connection.recv(4096)  # it waits for the body now
        stopping = threading.Thread(target=service._end, args=(number,))
        stopping.start()
        wait_until(lambda: not ready(service.url), "new requests to be refused")
        connection.sendall(body)
        answer = connection.recv(65_536)
        stopping.join()
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert "Traceback" not in service.log
    service.start()
    token = {"Authorization": f"Bearer {service_token(service)}"}
    assert [tenant["name"] for tenant in httpx2.get(f"{service.url}/v1/tenants", headers=token).json()["data"]] == [
        "Late"
    ]


def service_token(service: Service) -> str:
    """The operator's token of the first start."""
    return (service.data_dir / "operator-token").read_text().strip()


@pytest.mark.parametrize("milliseconds", [60, 300, 600, 900, 1300])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_at_any_moment_of_the_first_start_the_next_one_works(
    start_service: Start, tmp_path: Path, milliseconds: int, number: signal.Signals
) -> None:
    service_dir = tmp_path / "interrupted"
    service_dir.mkdir()
    environment = {"PATH": os.environ["PATH"], "APISHIELD_PORT": "0", "APISHIELD_DATA_DIR": str(service_dir)}
    with subprocess.Popen(SERVE, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        time.sleep(milliseconds / 1000)  # where in the start this falls differs from run to run, and must not matter
        process.send_signal(number)
        try:
            errors = process.communicate(timeout=30)[1].decode()
        finally:
            process.kill()
    code = process.returncode
    if number is signal.SIGINT and "in <module>" not in errors:  # the interpreter itself was not yet up
        assert "Traceback" not in errors
        assert code in {0, 130, -signal.SIGINT}
    service = start_service(APISHIELD_DATA_DIR=str(service_dir))
    assert service.sign_up()["id"].startswith("ten_")


def test_a_taken_port_is_one_line_with_another_to_try(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = refused(serve(tmp_path, APISHIELD_PORT=str(port)))
    assert line == (
        f"apishield: APISHIELD_PORT is {port}, and another program listens there. "
        f"Stop it, or choose another port: APISHIELD_PORT={port + 1 if port < 65_535 else 8000}"
    )


def test_an_address_of_another_machine_is_one_line(tmp_path: Path) -> None:
    assert "no address of this machine" in refused(serve(tmp_path, APISHIELD_HOST="192.0.2.1"))


def test_a_file_in_place_of_the_data_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    for path in ("data", "data/below"):
        line = refused(serve(tmp_path, APISHIELD_DATA_DIR=str(tmp_path / path)))
        assert line.startswith(f"apishield: APISHIELD_DATA_DIR is '{tmp_path / path}', which can't be ")


def test_several_workers_without_redis_are_one_line_with_the_reason(tmp_path: Path) -> None:
    assert "each worker would count by itself" in refused(serve(tmp_path, APISHIELD_WORKERS="2"))


def test_postgresql_without_a_secret_is_one_line(tmp_path: Path) -> None:
    assert "APISHIELD_SECRET is not set" in refused(serve(tmp_path, DATABASE_URL="postgresql://u:hunter2@localhost/x"))


def test_a_second_service_on_the_same_data_and_memory_is_refused(start_service: Start) -> None:
    first = start_service()
    line = refused(serve(first.data_dir, APISHIELD_DATA_DIR=str(first.data_dir)))
    assert f"another apishield uses (process {first.pid})" in line


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "apishield.db").write_bytes(b"not a database" * 1000)
    assert "not a database" in refused(serve(tmp_path))


def test_a_database_that_stays_away_is_waited_for_and_then_one_line(tmp_path: Path) -> None:
    url = f"postgresql://apishield:hunter2@127.0.0.1:{free_port()}/apishield"
    done = serve(tmp_path, DATABASE_URL=url, APISHIELD_SECRET=SECRET, APISHIELD_STARTUP_TIMEOUT_SECONDS="1")
    line = refused(done, code=1)
    assert "Connection refused" in line
    assert "Waited 1 s" in line
    assert "the database can't be reached yet" in done.stderr


def test_a_database_that_does_not_exist_is_not_waited_for(tmp_path: Path, postgres_server: PostgresServer) -> None:
    postgres_server.heal()
    line = refused(serve(tmp_path, DATABASE_URL=postgres_server.url_of("nowhere"), APISHIELD_SECRET=SECRET))
    assert '"nowhere" does not exist' in line


def test_a_database_that_comes_up_late_is_waited_for(
    start_service: Start, postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "service-0" / "server.log"

    def come_up() -> None:
        wait_until(
            lambda: log.exists() and "the database can't be reached yet" in log.read_text(), "the service to wait"
        )
        postgres_server.start()

    postgres_server.terminate()
    coming = threading.Thread(target=come_up)
    coming.start()
    service = start_service(DATABASE_URL=postgres_url, APISHIELD_SECRET=SECRET)
    coming.join()
    assert service.sign_up()["id"].startswith("ten_")


def test_a_wrong_secret_is_one_line(start_service: Start, postgres_url: str, tmp_path: Path) -> None:
    start_service(DATABASE_URL=postgres_url, APISHIELD_SECRET=SECRET).terminate()
    other = "1:" + "B" * 43 + "="
    assert "APISHIELD_SECRET" in refused(serve(tmp_path, DATABASE_URL=postgres_url, APISHIELD_SECRET=other))


def test_an_unknown_variable_is_named_with_the_nearest(tmp_path: Path) -> None:
    done = serve(tmp_path, APISHIELD_PROT="1", APISHIELD_WORKERS="0")
    assert "APISHIELD_WORKERS" in refused(done)
    (tmp_path / "data").write_text("")
    assert "did you mean APISHIELD_PORT?" in serve(tmp_path, APISHIELD_PROT="1").stderr


def test_several_workers_share_one_port_and_end_together(
    start_service: Start, redis_url: str, postgres_url: str
) -> None:
    service = start_service(
        REDIS_URL=redis_url, DATABASE_URL=postgres_url, APISHIELD_SECRET=SECRET, APISHIELD_WORKERS="2"
    )
    service.sign_up()
    processes = descendants(service.pid)
    assert len(processes) >= 2
    assert service.log.count("Make a tenant") == 1
    assert service.terminate() == 0
    wait_until(lambda: not any(map(alive, processes)), "the workers to end")


def test_workers_do_not_outlive_a_killed_parent(start_service: Start, redis_url: str) -> None:
    service = start_service(REDIS_URL=redis_url, APISHIELD_WORKERS="2")
    processes = descendants(service.pid)
    os.kill(service.pid, signal.SIGKILL)  # the parent alone
    wait_until(lambda: not any(map(alive, processes)), "the workers to end")
    service.restart()
    assert ready(service.url)


def test_a_redis_that_is_down_at_the_start_is_said_and_heals(start_service: Start, redis_server: RedisServer) -> None:
    redis_server.heal()
    redis_server.kill()
    service = start_service(REDIS_URL=redis_server.url)
    key = service.sign_up()["api_key"]["key"]

    def check() -> Any:
        credential = {"Authorization": f"Bearer {key}"}
        return httpx2.post(f"{service.url}/v1/check", headers=credential, json={"ip": "203.0.113.7"}).json()

    first = check()
    assert (first["allowed"], first["degraded"]) == (True, True)
    redis_server.heal()
    wait_until(lambda: not check()["degraded"], "Redis to be used again")


def test_a_head_of_64_kib_is_refused_by_the_service_itself(start_service: Start) -> None:
    answer = httpx2.get(f"{start_service().url}/v1/keys", headers={"X-Large": "a" * 65_536})
    assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")
