"""The data directory: what is in it is its owner's, whoever may write beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from apishield.stores.data_directory import DataDirectory, open_private


def test_a_new_directory_and_what_is_written_in_it_are_their_owners_only(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data")
    directory.prepare()
    written = directory.write_private("operator-token", "aso_x")
    with open_private(directory.path / "lock"):
        pass
    modes = {path.name: path.stat().st_mode & 0o777 for path in (directory.path, written, directory.path / "lock")}
    assert modes == {"data": 0o700, "operator-token": 0o600, "lock": 0o600}
    assert sorted(path.name for path in directory.path.iterdir()) == ["lock", "operator-token"]


def test_the_mode_of_a_directory_that_was_there_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    DataDirectory(tmp_path).prepare()
    assert tmp_path.stat().st_mode & 0o777 == 0o750


def test_no_secret_is_written_through_a_link_or_a_file_that_somebody_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apishield.stores.data_directory.system_random.token_hex", lambda _: "foreseen")
    monkeypatch.setattr("apishield.stores.data_directory.os.getpid", lambda: 7)
    prey = tmp_path / "prey"
    (tmp_path / ".secret-7-foreseen").symlink_to(prey)
    with pytest.raises(FileExistsError):
        DataDirectory(tmp_path).write_private("secret", "x")
    (tmp_path / "lock").symlink_to(prey)
    with pytest.raises(OSError, match="symbolic links"):
        open_private(tmp_path / "lock")
    assert not prey.exists()


def test_a_secret_that_others_may_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = DataDirectory(tmp_path)
    directory.warn_of_open_secret()
    directory.secret(lambda: "1:x")
    directory.warn_of_open_secret()
    assert caplog.messages == []
    (tmp_path / "secret").chmod(0o640)
    directory.warn_of_open_secret()
    assert [str(tmp_path / "secret") in message for message in caplog.messages] == [True]
