"""Each command does what it says against the real parts, and every error is one line with an exit code that is documented."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apishield import __version__
from apishield.services.secrets import Secrets
from tests.support.processes import free_port, wait_until
from tests.support.service import Service
from tests.support.services import RedisServer

Start = Callable[..., Service]
Apishield = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def apishield(tmp_path: Path) -> Apishield:
    """Runs one command in a directory of its own, with no settings but the given ones."""

    def run(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = {"PATH": os.environ["PATH"], "COLUMNS": "200", **environment}
        command = [sys.executable, "-m", "apishield.cli", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def service(start_service: Start) -> Service:
    """A running service, SQLite and memory."""
    return start_service()


def check(service: Service, service_key: str, **question: Any) -> Any:
    credential = {"Authorization": f"Bearer {service_key}"}
    return httpx2.post(f"{service.url}/v1/check", headers=credential, json=question).json()


def test_version_is_printed(apishield: Apishield) -> None:
    assert apishield("version").stdout == apishield("--version").stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    "command",
    [[], ["serve"], ["doctor"], ["config", "check"], ["keys"], ["keys", "create"], ["keys", "list"], ["keys", "show"],
     ["keys", "rotate"], ["keys", "revoke"], ["tenants", "create"], ["tenants", "list"], ["audit", "verify"],
     ["openapi"], ["generate", "secret"], ["generate", "operator-token"], ["operator-token", "renew"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_explains_itself(apishield: Apishield, command: list[str]) -> None:
    help_text = apishield(*command, "--help").stdout
    assert "Usage: apishield" in help_text
    assert command in ([], ["keys"]) or "Example" in help_text


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["serve", "--port", "http"], ["keys", "create"], ["keys", "nonsense"]]
)
def test_wrong_usage_exits_2(apishield: Apishield, arguments: list[str]) -> None:
    apishield(*arguments, code=2)


def test_a_missing_server_extra_is_one_line_with_the_command_that_installs_it(tmp_path: Path) -> None:
    script = "import sys; sys.modules['typer'] = None; from apishield.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert complaint(done).endswith('is not installed. Install it with: pip install "apishield[server]"')


def test_config_check_shows_values_and_origins_and_no_secret(apishield: Apishield, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("APISHIELD_PORT=9001\nREDIS_URL=redis://:hunter2@redis:6379/0\n")
    secret = Secrets.generate()
    shown = apishield("config", "check", APISHIELD_SECRET=secret, APISHIELD_WORKERS="2").stdout
    assert re.search(r"APISHIELD_PORT +9001 +\.env", shown)
    assert re.search(r"APISHIELD_WORKERS +2 +environment", shown)
    assert re.search(r"REDIS_URL +redis://:\*\*\*@redis:6379/0 +\.env", shown)
    assert re.search(r"APISHIELD_SECRET +\(hidden\) +environment", shown)
    for hidden in ("hunter2", secret):
        assert hidden not in shown
    assert json.loads(apishield("config", "check", "--json").stdout)["APISHIELD_PORT"]["value"] == "9001"


def test_config_check_says_each_fault_in_a_line(apishield: Apishield) -> None:
    done = apishield("config", "check", code=2, APISHIELD_PORT="http", APISHIELD_WORKERS="0")
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["APISHIELD_PORT", "APISHIELD_WORKERS"]
    assert "part 1" in complaint(apishield("config", "check", code=2, APISHIELD_SECRET="hunter2"))
    assert "names no service" in complaint(
        apishield("config", "check", code=2, REDIS_URL="redis+sentinel://:hunter2@a:1")
    )


def test_the_env_example_changes_nothing(apishield: Apishield, tmp_path: Path) -> None:
    before = apishield("config", "check").stdout
    (tmp_path / ".env").write_text((Path(__file__).parents[2] / ".env.example").read_text())
    assert apishield("config", "check").stdout == before


def test_what_generate_prints_can_be_set(apishield: Apishield) -> None:
    secret = apishield("generate", "secret").stdout.strip()
    token = apishield("generate", "operator-token").stdout.strip()
    apishield("config", "check", APISHIELD_SECRET=secret, APISHIELD_OPERATOR_TOKEN=token)


def test_openapi_prints_the_document_that_the_service_answers(apishield: Apishield, service: Service) -> None:
    printed = json.loads(apishield("openapi").stdout)
    assert printed == httpx2.get(f"{service.url}/openapi.json").json()


def test_the_life_of_a_key_from_the_shell_acts_on_the_running_service(apishield: Apishield, service: Service) -> None:
    at = {"APISHIELD_DATA_DIR": str(service.data_dir)}
    tenant = json.loads(apishield("tenants", "create", "Shop", "--json", **at).stdout)
    service_key = tenant["api_key"]["key"]
    assert "Shop" in apishield("tenants", "list", **at).stdout

    options = ("--scope", "read", "--limit", "2/minute", "--monthly-quota", "100", "--allowed-ip", "203.0.113.0/24")
    made = json.loads(apishield("keys", "create", "Partner", *options, "--json", **at).stdout)
    ask = {"api_key": made["key"], "ip": "203.0.113.7", "method": "GET", "path": "/"}
    wait_until(lambda: check(service, service_key, **ask)["code"] == "ok", "the service to know the key")
    shown = json.loads(apishield("keys", "show", made["id"], **at).stdout)
    assert (shown["name"], shown["scopes"], shown["status"]) == ("Partner", ["read"], "active")
    assert made["key"] not in json.dumps(shown)
    assert check(service, service_key, **(ask | {"ip": "192.0.2.1"}))["code"] == "ip_not_allowed"

    rotated = json.loads(apishield("keys", "rotate", made["id"], "--grace-seconds", "0", "--json", **at).stdout)
    wait_until(lambda: check(service, service_key, **ask)["code"] == "key_unknown", "the old secret to be refused")
    ask["api_key"] = rotated["key"]
    assert check(service, service_key, **ask)["code"] in {"ok", "rate_limited"}

    assert "revoked" in apishield("keys", "revoke", made["id"], **at).stdout
    wait_until(lambda: check(service, service_key, **ask)["code"] == "key_revoked", "the key to be refused")
    assert re.search(r"Partner .* revoked", apishield("keys", "list", "--query", "part", **at).stdout)
    assert "all hold" in apishield("audit", "verify", **at).stdout


def test_the_catalogue_from_the_shell_acts_on_the_running_service(
    apishield: Apishield, service: Service, tmp_path: Path
) -> None:
    at = {"APISHIELD_DATA_DIR": str(service.data_dir)}
    service_key = service.sign_up()["api_key"]["key"]
    options = ("--scope", "orders:read", "--cost", "2", "--json")
    added = json.loads(apishield("endpoints", "add", "get", "/orders/{id}", *options, **at).stdout)
    assert (added["method"], added["required_scopes"], added["cost"]) == ("GET", ["orders:read"], 2)
    ask = {"ip": "203.0.113.7", "method": "GET", "path": "/orders/1"}
    wait_until(lambda: check(service, service_key, **ask)["code"] == "key_missing", "the service to know the endpoint")
    document = tmp_path / "openapi.json"
    good: Any = {"get": {"security": []}}
    document.write_text(json.dumps({"openapi": "3.1.0", "paths": {"/free": good}}))
    assert "created" in apishield("endpoints", "import", str(document), "--base-path", "/v1", **at).stdout
    document.write_text(json.dumps({"openapi": "3.1.0", "paths": {"/free": good, "/{": good}}))
    refused = apishield("endpoints", "import", str(document), "--base-path", "/v1", "--json", code=1, **at)
    assert [result["outcome"] for result in json.loads(refused.stdout)] == ["unchanged", "failed"]
    listed = apishield("endpoints", "list", **at).stdout
    assert re.search(r"/v1/free +none +1", listed)
    assert re.search(r"/orders/\{id\} +orders:read +2", listed)
    apishield("endpoints", "remove", added["id"], **at)
    wait_until(lambda: check(service, service_key, **ask)["code"] == "ok", "the service to forget the endpoint")


def test_a_policy_is_tried_in_shadow_and_enforced_from_the_shell(apishield: Apishield, service: Service) -> None:
    at = {"APISHIELD_DATA_DIR": str(service.data_dir)}
    made = service.sign_up()
    token, service_key = {"Authorization": f"Bearer {made['token']}"}, made["api_key"]["key"]
    policy = {"name": "Tight", "per": ["ip"], "limit": "1/hour", "mode": "shadow"}
    policy_id = httpx2.post(f"{service.url}/v1/policies", headers=token, json=policy).json()["id"]
    assert [check(service, service_key, ip="203.0.113.7")["code"] for _ in range(3)] == ["ok"] * 3
    assert re.search(r"Tight +ip .* shadow", apishield("policies", "list", **at).stdout)

    def would_refuse() -> Any:
        return httpx2.get(f"{service.url}/v1/policies/{policy_id}/shadow", headers=token).json()["would_refuse"]

    wait_until(lambda: would_refuse() == 2, "the node to write what it counted")
    report = json.loads(apishield("policies", "shadow", policy_id, "--json", **at).stdout)
    assert report["would_refuse"] == 2
    text = apishield("policies", "shadow", policy_id, **at).stdout
    assert "refused 2 of 3" in text
    assert re.search(r"ip 203.0.113.7 +2", text)
    apishield("policies", "mode", policy_id, "enforce", **at)
    assert json.loads(apishield("policies", "show", policy_id, **at).stdout)["mode"] == "enforce"
    wait_until(lambda: check(service, service_key, ip="203.0.113.7")["code"] == "rate_limited", "it to be enforced")


def test_a_key_from_the_shell_has_the_scopes_that_one_from_the_api_has(apishield: Apishield, service: Service) -> None:
    at = {"APISHIELD_DATA_DIR": str(service.data_dir)}
    token = {"Authorization": f"Bearer {service.sign_up()['token']}"}
    by_api = httpx2.post(f"{service.url}/v1/keys", headers=token, json={"name": "A"}).json()
    by_shell = json.loads(apishield("keys", "create", "B", "--json", **at).stdout)
    assert by_shell["scopes"] == by_api["scopes"] == ["read", "write"]
    assert json.loads(apishield("keys", "create", "C", "--kind", "service", "--json", **at).stdout)["scopes"] == []


def test_lists_never_cut_an_id(apishield: Apishield, service: Service) -> None:
    narrow = {"APISHIELD_DATA_DIR": str(service.data_dir), "COLUMNS": "40"}
    service.sign_up()
    made = json.loads(apishield("keys", "create", "A name" + " of words" * 5, "--json", **narrow).stdout)
    (row,) = [line for line in apishield("keys", "list", **narrow).stdout.splitlines() if "A name" in line]
    assert row.split()[0] == made["id"]
    assert made["tenant_id"] in apishield("tenants", "list", **narrow).stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["keys", "list"], "There is no tenant. Make one: apishield tenants create NAME"),
        (["keys", "list", "--tenant", "Nobody"], "There is no tenant 'Nobody'."),
    ],
)
def test_without_a_tenant_it_says_how_to_make_one(
    apishield: Apishield, service: Service, arguments: list[str], expected: str
) -> None:
    assert expected in complaint(apishield(*arguments, code=1, APISHIELD_DATA_DIR=str(service.data_dir)))


def test_of_several_tenants_one_must_be_named(apishield: Apishield, service: Service) -> None:
    at = {"APISHIELD_DATA_DIR": str(service.data_dir)}
    for name in ("One", "Two"):
        service.sign_up(name)
    assert "There are 2 such tenants" in complaint(apishield("keys", "list", code=1, **at))
    assert "First service key" in apishield("keys", "list", "--tenant", "Two", **at).stdout
    assert "There is no key" in complaint(apishield("keys", "show", "key_nope", "--tenant", "Two", code=1, **at))


def test_without_a_database_it_says_to_start_the_service(apishield: Apishield) -> None:
    assert "Start the service once" in complaint(apishield("tenants", "list", code=2))


def test_audit_verify_finds_an_entry_that_was_changed(apishield: Apishield, service: Service) -> None:
    at = {"APISHIELD_DATA_DIR": str(service.data_dir)}
    tenant_id = service.sign_up()["id"]
    assert "all hold" in apishield("audit", "verify", **at).stdout
    service.terminate()
    with sqlite3.connect(service.data_dir / "apishield.db") as database:
        database.execute("UPDATE audit_entries SET action = 'key.deleted' WHERE action = 'key.created'")
    broken = apishield("audit", "verify", code=1, **at).stderr
    assert f"the chain of {tenant_id} breaks at entry " in broken


def test_a_renewed_operator_token_holds_after_a_restart(apishield: Apishield, service: Service) -> None:
    former = service.operator_token
    renewed = apishield("operator-token", "renew", APISHIELD_DATA_DIR=str(service.data_dir)).stdout.strip()
    service.restart()

    def status(token: str) -> int:
        return httpx2.get(f"{service.url}/v1/tenants", headers={"Authorization": f"Bearer {token}"}).status_code

    assert (status(renewed), status(former)) == (200, 401)


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {finding["part"]: finding for finding in json.loads(done.stdout)}


def test_doctor_finds_a_fresh_directory_well(apishield: Apishield, tmp_path: Path) -> None:
    found = findings(apishield("doctor", "--json", APISHIELD_PORT=str(free_port())))
    assert {finding["status"] for finding in found.values()} == {"ok"}
    assert not (tmp_path / "data").exists()


def test_doctor_finds_a_running_cluster_well(
    apishield: Apishield, start_service: Start, postgres_url: str, redis_url: str
) -> None:
    settings = {"DATABASE_URL": postgres_url, "REDIS_URL": redis_url, "APISHIELD_SECRET": Secrets.generate()}
    service = start_service(**settings)
    found = findings(apishield("doctor", "--json", APISHIELD_PORT=str(service.port), **settings))
    assert {name: finding["status"] for name, finding in found.items()} == dict.fromkeys(
        ("python", "data directory", "disk", "database", "secret", "redis", "redis memory", "redis latency",
         "redis scripts", "clock", "port"), "ok",
    )  # fmt: skip
    assert found["port"]["detail"].endswith("the service runs there")


def test_doctor_says_how_to_mend_what_is_wrong(
    apishield: Apishield, start_service: Start, postgres_url: str, redis_server: RedisServer
) -> None:
    settings = {"DATABASE_URL": postgres_url, "REDIS_URL": redis_server.url, "APISHIELD_SECRET": Secrets.generate()}
    start_service(DATABASE_URL=postgres_url, APISHIELD_SECRET=settings["APISHIELD_SECRET"]).terminate()
    redis_server.heal()
    with redis_server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            found = findings(
                apishield("doctor", "--json", code=1, **(settings | {"APISHIELD_SECRET": Secrets.generate()}))
            )
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert {name for name, finding in found.items() if finding["status"] == "fail"} == {"secret", "redis memory"}
    assert all(finding["fix"] for finding in found.values() if finding["status"] == "fail")


def test_one_part_that_is_down_hides_no_other(apishield: Apishield) -> None:
    settings = {
        "DATABASE_URL": f"postgresql://u:hunter2@127.0.0.1:{free_port()}/x",
        "REDIS_URL": f"redis://:hunter2@127.0.0.1:{free_port()}/0",
        "APISHIELD_SECRET": Secrets.generate(),
    }
    done = apishield("doctor", "--json", code=1, **settings)
    found = findings(done)
    assert {name for name, finding in found.items() if finding["status"] == "fail"} == {"database", "redis"}
    assert "hunter2" not in done.stdout + done.stderr


def test_a_reader_that_stops_reading_is_no_error(service: Service, tmp_path: Path) -> None:
    command = f"{sys.executable} -m apishield.cli openapi | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.stdout, done.stderr) == ('{\n  "opena', "")
