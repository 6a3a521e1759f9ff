"""A full disk under SQLite: each refusal is clear, nothing that was acknowledged is lost, and it heals by itself."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.e2e.test_start import refused, serve
from tests.support.service import Service

Start = Callable[..., Service]
MountDisk = Callable[[str], Path]


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[MountDisk]:
    """Mounts a disk of the given size, which takes root's rights."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        path = tmp_path / f"disk-{len(mounted)}"
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.decode().strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", path], check=False)


@pytest.mark.parametrize("size", ["8k", "16k", "64k", "200k", "400k"])
def test_a_start_on_a_full_disk_is_one_line(mount_disk: MountDisk, size: str) -> None:
    disk = mount_disk(size)
    done = serve(disk, APISHIELD_DATA_DIR=str(disk / "data"))
    line = refused(done, code=done.returncode)
    assert done.returncode in {1, 2}
    assert any(words in line for words in ("full", "I/O error", "No space left")), line


def test_writes_are_refused_while_the_disk_is_full_and_nothing_is_lost(
    start_service: Start, mount_disk: MountDisk
) -> None:
    disk = mount_disk("4m")
    service = start_service(APISHIELD_DATA_DIR=str(disk))
    made = service.sign_up()
    owner = {"Authorization": f"Bearer {made['token']}"}
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(b"x" * 4096):
                pass
        except OSError:
            pass

    statuses, kept = set(), []
    for number in range(200):
        answer = httpx2.post(f"{service.url}/v1/keys", headers=owner, json={"name": f"Key {number}"})
        statuses.add(answer.status_code)
        if answer.status_code == 201:
            kept.append(answer.json()["id"])
        else:
            assert answer.json()["code"] in {"storage_full", "database_unavailable"}, answer.text
            break
    assert statuses <= {201, 503, 507}
    assert statuses & {503, 507}
    check = {"Authorization": f"Bearer {made['api_key']['key']}"}
    assert httpx2.post(f"{service.url}/v1/check", headers=check, json={}).json()["allowed"]
    ready = httpx2.get(f"{service.url}/readyz")
    assert (ready.status_code, [str(disk) in warning for warning in ready.json()["warnings"]]) == (200, [True])

    (disk / "filler").unlink()
    healed = httpx2.post(f"{service.url}/v1/keys", headers=owner, json={"name": "After"})
    assert healed.status_code == 201, healed.text
    service.restart()
    for key_id in (*kept, healed.json()["id"]):
        assert httpx2.get(f"{service.url}/v1/keys/{key_id}", headers=owner).status_code == 200
