"""What ``make`` promises: an environment from the lock file, one line where Python won't do, pages that are current."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx2
import pytest

from apishield.cli.reference import env_example, settings_page
from tests.support.processes import Reaper, ServerProcess, free_port
from tests.support.service import ready

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "dirname", "cat", "cksum", "rm", "ls", "env")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What ``make run`` needs of the repository before it has an environment."""
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def environment(checkout: Path, *pythons: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs ``scripts/environment.sh`` where the only Pythons are the given ones (name, script)."""
    tools = checkout / "tools"
    tools.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    for name, script in pythons:
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    return subprocess.run(
        ["sh", "scripts/environment.sh"],
        cwd=checkout,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr.removeprefix("apishield: ").strip()


def test_without_any_python_it_is_one_line(checkout: Path) -> None:
    assert refused(environment(checkout)).startswith("Python 3.11 or newer is needed. Install one")


def test_an_old_python_is_named(checkout: Path) -> None:
    old = 'case "$2" in *print*) echo 3.9;; *exit*) exit 1;; esac'
    line = refused(environment(checkout, ("python3", old)))
    assert line.startswith(f"Python 3.11 or newer is needed, and {checkout}/tools/python3 is Python 3.9.")


def test_a_python_without_venv_names_the_package(checkout: Path) -> None:
    bare = 'case "$2" in *print*) echo 3.12;; *ensurepip*) exit 1;; esac'
    line = refused(environment(checkout, ("python3.12", bare)))
    assert "(Python 3.12) has no venv module. Install it (Debian, Ubuntu: apt-get install python3.12-venv)" in line


def test_something_else_in_place_of_the_environment_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "mine").write_text("precious")
    assert "is in the way" in refused(environment(checkout, ("python3", f'exec {sys.executable} "$@"')))
    assert (checkout / ".venv" / "mine").exists()


def test_no_lock_file_says_where_to_download_from() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        assert re.findall(r"https?://|--index|--extra-index|--find-links|/opt/", lock.read_text()) == []


def test_every_locked_package_has_hashes() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        blocks = re.split(r"^(?=[a-z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]
        assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_lock_files_hold_what_the_project_needs_and_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locked = {name: _locked(ROOT / "requirements" / f"{name}.txt") for name in ("server", "dev")}
    for name, extra in (("server", ["server", "redis"]), ("dev", ["server", "redis", "dev"])):
        wanted = project["dependencies"] + [requirement for part in extra for requirement in extras[part]]
        names = {re.split(r"[\[<>=;]", requirement)[0] for requirement in wanted} - {"apishield"}
        assert names - locked[name].keys() == set()
    assert {name: version for name, version in locked["server"].items() if locked["dev"].get(name) != version} == {}


def _locked(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", path.read_text(), re.MULTILINE))


def test_the_generated_pages_are_current() -> None:
    assert (ROOT / "docs" / "reference" / "settings.md").read_text() == settings_page(), "run: make docs"
    assert (ROOT / ".env.example").read_text() == env_example(), "run: make docs"


def test_make_alone_lists_what_can_be_made() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("run", "test", "check", "bench", "lint", "format", "docs", "lock", "clean"):
        assert re.search(rf"^  make {target} +\w", listed, re.MULTILINE)


@pytest.mark.skipif(not os.environ.get("CI"), reason="installs an environment from the lock file; runs where CI is set")
@pytest.mark.timeout(600)
def test_make_run_in_a_fresh_clone_serves_and_a_second_start_is_quick(reaper: Reaper, tmp_path: Path) -> None:
    clone, port = tmp_path / "clone", free_port()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    (tmp_path / "logs").mkdir()
    settings = {**os.environ, "APISHIELD_PORT": str(port), "APISHIELD_DATA_DIR": str(tmp_path / "data")}
    command = ["make", "--no-print-directory", "-C", str(clone), "run"]
    url = f"http://localhost:{port}"
    # The first start downloads packages; ServerProcess waits a minute, so the environment is made before.
    subprocess.run([clone / "scripts" / "environment.sh"], check=True, capture_output=True)
    service = ServerProcess(reaper, command, lambda: ready(url), directory=tmp_path / "logs", environment=settings)
    try:
        made = httpx2.post(f"{url}/v1/tenants", json={"name": "My App"})
        assert made.status_code == 201
        service.restart()
        own = httpx2.get(f"{url}/v1/tenant", headers={"Authorization": f"Bearer {made.json()['token']}"})
        assert own.json()["name"] == "My App"
        assert "installing" not in service.log
    finally:
        service.terminate()
