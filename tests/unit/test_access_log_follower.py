"""Every line of a log comes at least once, however it is rotated and whenever the reader is restarted; once, if it is not."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from apishield.integrations.access_log.follower import GRACE_SECONDS, Follower
from apishield.integrations.access_log.logfile import CHUNK_BYTES
from apishield.integrations.access_log.positions import Bookmark, PositionFile


class Seconds:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Gateway:
    """Writes numbered lines to a log, and rotates it as logrotate does."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "apishield.log"
        self.written: list[bytes] = []
        self._file = self.path.open("ab", buffering=0)

    def log(self, count: int = 1, *, end: bytes = b"\n") -> None:
        for _ in range(count):
            line = b'{"decision": "dec_%06d", "padding": "%s"}' % (len(self.written), b"x" * 50)
            self.written.append(line)
            self._file.write(line + end)

    def end_line(self) -> None:
        self._file.write(b"\n")

    def rename(self) -> None:
        """Moves the log away; the gateway goes on writing to it."""
        self._shift()
        self.path.rename(self._rotated(1))

    def reopen(self) -> None:
        self._file.close()
        self._file = self.path.open("ab", buffering=0)

    def copy_and_truncate(self) -> None:
        self._shift()
        shutil.copyfile(self.path, self._rotated(1))
        os.truncate(self.path, 0)

    def _shift(self) -> None:
        numbers = sorted(int(path.suffix[1:]) for path in self.path.parent.glob("apishield.log.*[0-9]"))
        for number in reversed(numbers):
            self._rotated(number).rename(self._rotated(number + 1))

    def _rotated(self, number: int) -> Path:
        return self.path.with_name(f"apishield.log.{number}")

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


def follow(gateway: Gateway, seconds: Seconds, bookmarks: list[Bookmark] | None = None) -> Follower:
    return Follower(gateway.path, bookmarks or [], seconds)


def everything(follower: Follower, most: int = 1000) -> list[bytes]:
    lines: list[bytes] = []
    while True:
        lines += follower.take(most)
        if follower.is_exhausted:
            return lines


def test_lines_come_in_order_and_no_more_at_once_than_asked_for(gateway: Gateway, seconds: Seconds) -> None:
    gateway.log(10)
    follower = follow(gateway, seconds)
    assert follower.take(4) == gateway.written[:4]
    assert follower.take(4) == gateway.written[4:8]
    assert everything(follower) == gateway.written[8:]
    assert follower.take(4) == []
    assert follower.is_exhausted


def test_a_line_that_is_still_being_written_waits_for_its_end(gateway: Gateway, seconds: Seconds) -> None:
    gateway.log(2)
    gateway.log(end=b"")
    follower = follow(gateway, seconds)
    assert everything(follower) == gateway.written[:2]
    gateway.end_line()
    assert everything(follower) == gateway.written[2:]


def test_a_log_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, seconds: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "later.log"
    follower = Follower(path, [], seconds)
    assert follower.take(9) == []
    path.write_bytes(b"first\n")
    assert follower.take(9) == [b"first"]
    assert [record.message for record in caplog.records] == [f"{path} is not there yet; waiting for it"]


def test_what_is_written_to_a_renamed_log_comes_before_what_is_written_to_the_new_one(
    gateway: Gateway, seconds: Seconds
) -> None:
    gateway.log(2)
    follower = follow(gateway, seconds)
    everything(follower)
    gateway.rename()
    gateway.log(2)  # the gateway has not been told yet
    assert everything(follower) == gateway.written[2:]
    gateway.log()
    gateway.reopen()
    gateway.log()
    assert everything(follower) == gateway.written[4:]


def test_a_renamed_log_is_read_until_it_has_been_idle_for_a_while(gateway: Gateway, seconds: Seconds) -> None:
    gateway.log()
    follower = follow(gateway, seconds)
    gateway.rename()
    gateway.path.touch()  # logrotate makes the new one, and only then tells the gateway
    everything(follower)
    seconds.now += GRACE_SECONDS - 1
    gateway.log()
    assert everything(follower) == gateway.written[1:]
    seconds.now += GRACE_SECONDS - 1
    everything(follower)
    assert len(follower.bookmarks) == 2
    seconds.now += 1
    everything(follower)
    assert [bookmark.inode for bookmark in follower.bookmarks] == [gateway.path.stat().st_ino]


def test_an_emptied_log_is_read_from_its_beginning_after_the_rest_of_its_copy(
    gateway: Gateway, seconds: Seconds
) -> None:
    gateway.log(5)
    follower = follow(gateway, seconds)
    follower.take(2)
    gateway.copy_and_truncate()
    gateway.log(9)  # longer than what was read: only its beginning tells that it is another
    assert everything(follower) == gateway.written[2:]


def test_an_emptied_log_without_a_copy_goes_on_and_says_so(
    gateway: Gateway, seconds: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.log(5)
    follower = follow(gateway, seconds)
    everything(follower)
    os.truncate(gateway.path, 0)
    gateway.log()
    assert everything(follower) == gateway.written[5:]
    assert "no copy was found" in caplog.text


def test_rotations_that_nobody_followed_are_caught_up_with(gateway: Gateway, seconds: Seconds) -> None:
    gateway.log(5)
    follower = follow(gateway, seconds)
    follower.take(2)
    bookmarks = follower.bookmarks
    for _ in range(3):
        gateway.log()
        gateway.rename()
        gateway.reopen()
    gateway.log()
    assert everything(follow(gateway, seconds, bookmarks)) == gateway.written[2:]


def test_logs_that_were_reported_before_are_not_read_again_with_those_that_were_not(
    gateway: Gateway, seconds: Seconds
) -> None:
    gateway.log(3)
    gateway.rename()
    os.utime(gateway.path.with_name("apishield.log.1"), (1, 1))
    gateway.reopen()
    gateway.log(3)
    follower = follow(gateway, seconds)
    assert everything(follower) == gateway.written[3:]  # the first start takes what is there, not what was
    gateway.log()
    assert everything(follow(gateway, seconds, follower.bookmarks)) == gateway.written[6:]


def test_a_log_that_was_compressed_unread_is_missed_aloud(
    gateway: Gateway, seconds: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.log(3)
    follower = follow(gateway, seconds)
    follower.take(1)
    gateway.rename()
    rotated = gateway.path.with_name("apishield.log.1")
    rotated.with_name("apishield.log.1.gz").write_bytes(gzip.compress(rotated.read_bytes()))
    rotated.unlink()
    gateway.reopen()
    gateway.log()
    assert everything(follow(gateway, seconds, follower.bookmarks)) == gateway.written[3:]
    assert "some results are lost" in caplog.text


def test_another_log_beside_it_is_not_taken_for_a_rotated_one(
    gateway: Gateway, seconds: Seconds, tmp_path: Path
) -> None:
    gateway.log(2)
    follower = follow(gateway, seconds)
    everything(follower)
    for name in ("apishield.log.gz", "apishield-error.log", ".apishield.log.reported", "apishield.log.1.gz"):
        (tmp_path / name).write_bytes(b"another\n")
    gateway.rename()
    gateway.reopen()
    gateway.log()
    assert everything(follow(gateway, seconds, follower.bookmarks)) == gateway.written[2:]


def test_a_line_without_an_end_costs_bounded_memory_and_not_the_lines_behind_it(
    tmp_path: Path, seconds: Seconds
) -> None:
    path = tmp_path / "odd.log"
    path.write_bytes(b"before\n" + b"x" * (3 * CHUNK_BYTES) + b"\nbehind\n")
    lines = everything(Follower(path, [], seconds))
    assert (lines[0], lines[-1]) == (b"before", b"behind")
    assert len(lines) == 3
    assert len(lines[1]) <= CHUNK_BYTES


def test_bookmarks_are_kept_whole_and_a_file_that_is_none_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    positions = PositionFile(tmp_path / ".log.reported")
    assert positions.load() == []
    kept = [Bookmark(1, 2, 3, 4, 3, "abc"), Bookmark(1, 3, 0, 9, 0, "")]
    positions.save(kept)
    assert positions.load() == kept
    positions.path.write_bytes(positions.path.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING):
        assert positions.load() == []
    assert "from its beginning" in caplog.text


class Rotations(RuleBasedStateMachine):
    """Any order of writing, rotating, reading and being killed."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self._directory = tempfile.TemporaryDirectory()
        self.gateway = Gateway(Path(self._directory.name))
        self.seconds = Seconds()
        self.follower = follow(self.gateway, self.seconds)
        self.kept = self.follower.bookmarks
        self.seen: list[bytes] = []
        self.killed = False

    @rule(count=st.integers(1, 30))
    def log(self, count: int) -> None:
        self.gateway.log(count)

    @rule(most=st.integers(1, 20))
    def take(self, most: int) -> None:
        self.seen += self.follower.take(most)

    @rule()
    def commit(self) -> None:
        self.kept = self.follower.bookmarks

    @rule()
    def restart(self) -> None:
        """A kill: what was taken since the last commit comes again."""
        self.follower.close()
        self.follower = follow(self.gateway, self.seconds, self.kept)
        self.killed = True

    @rule()
    def rename(self) -> None:
        self.gateway.rename()
        self.gateway.reopen()

    @rule()
    def copy_and_truncate(self) -> None:
        """Who has never looked into a file can't know that it was emptied; so there is a look, each second."""
        self.seen += self.follower.take(1)
        self.gateway.copy_and_truncate()

    @rule(passed=st.floats(0, 2 * GRACE_SECONDS))
    def wait(self, passed: float) -> None:
        self.seconds.now += passed

    @invariant()
    def only_whole_lines_come(self) -> None:
        assert set(self.seen) <= set(self.gateway.written)

    def teardown(self) -> None:
        self.seen += everything(self.follower)
        assert set(self.seen) == set(self.gateway.written)
        if not self.killed:
            assert len(self.seen) == len(self.gateway.written)
        self.follower.close()
        self.gateway.close()
        self._directory.cleanup()


TestRotations = Rotations.TestCase
TestRotations.settings = settings(stateful_step_count=30, deadline=None)
