"""Which of many path patterns match a path, in time that depends on the path and hardly on how many patterns there are.

A pattern is a path in which ``{name}`` stands for one whole segment, ``*`` inside a segment for any characters but slashes,
and ``*`` at the end for anything at all: ``/v1/search*`` matches ``/v1/search``, ``/v1/searches`` and ``/v1/search/deep``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")

_PLACEHOLDER = re.compile(r"\{[^/{}]+\}")
MAX_PATTERN_CHARACTERS = 1024


def fault(pattern: str) -> str | None:
    """What is wrong with a pattern, in words; ``None`` where it can be used."""
    if not pattern.startswith("/"):
        return "a path pattern begins with a slash"
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        return f"a path pattern has at most {MAX_PATTERN_CHARACTERS} characters"
    if "//" in pattern or any(segment in {".", ".."} for segment in pattern.split("/")):
        return "a path pattern has no empty and no dot segments; paths are compared without them"
    for segment in pattern.split("/"):
        bare = _PLACEHOLDER.sub("", segment)
        if "{" in bare or "}" in bare:
            return f"the braces in {segment[:64]!a} are not closed, or are empty"
        if bare and bare != segment:
            return f"{segment[:64]!a} mixes a {{name}} with other characters; it stands for a whole segment"
    if any(character in pattern for character in "?#\\;") or not pattern.isprintable():
        return "a path pattern has no query, fragment, backslash, semicolon or control character"
    return None


def expression(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression, which says the same as the index: for one pattern, and for tests."""
    is_open = pattern.endswith("*")
    body = pattern.rstrip("*") if is_open else _closed(pattern)
    return re.compile(_translate(body) + (".*" if is_open else ""), re.DOTALL)


class PathIndex(Generic[Value]):
    """Patterns with what they stand for. Patterns without placeholders lie in tables, the others in a tree of segments."""

    __slots__ = ("_exact", "_prefixes", "_root")

    def __init__(self) -> None:
        self._exact: dict[str, list[Value]] = {}
        self._prefixes: _Prefixes[Value] = {}
        self._root: _Node[Value] | None = None

    def add(self, pattern: str, value: Value) -> None:
        """Takes a pattern in. The same pattern may stand for several values."""
        is_open = pattern.endswith("*")
        body = pattern.rstrip("*") if is_open else _closed(pattern)
        if "{" not in body and "*" not in body:
            if is_open:
                self._prefixes.setdefault(len(body), {}).setdefault(body, []).append(value)
            else:
                self._exact.setdefault(body, []).append(value)
            return
        if self._root is None:
            self._root = _Node()
        self._root.add(body[1:].split("/"), value, is_open=is_open)

    def find(self, path: str) -> list[Value]:
        """What stands for all patterns that match a normal path, in no particular order."""
        found = list(self._exact.get(path, ()))
        found += _starting(self._prefixes, path)
        if self._root is not None:
            found += self._root.find(path[1:].split("/"), 0)
        return found


_Prefixes = dict[int, dict[str, list[Value]]]


class _Node(Generic[Value]):
    """Where patterns have come to after some segments."""

    __slots__ = ("any", "ends", "globs", "literals", "open_globs", "prefixes")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[Value]] = {}
        self.globs: dict[re.Pattern[str], _Node[Value]] = {}
        self.any: _Node[Value] | None = None
        self.ends: list[Value] = []
        self.prefixes: _Prefixes[Value] = {}
        self.open_globs: list[tuple[re.Pattern[str], Value]] = []

    def add(self, segments: list[str], value: Value, *, is_open: bool) -> None:
        segment, *rest = segments
        if is_open and not rest:
            if "*" in segment or "{" in segment:
                self.open_globs.append((re.compile(_translate(segment) + ".*", re.DOTALL), value))
            else:
                self.prefixes.setdefault(len(segment), {}).setdefault(segment, []).append(value)
            return
        child = self._child(segment)
        if rest:
            child.add(rest, value, is_open=is_open)
        else:
            child.ends.append(value)

    def find(self, segments: list[str], place: int) -> Iterator[Value]:
        if place == len(segments):
            yield from self.ends
            return
        if self.prefixes or self.open_globs:
            remaining = "/".join(segments[place:])
            yield from _starting(self.prefixes, remaining)
            yield from (value for glob, value in self.open_globs if glob.fullmatch(remaining) is not None)
        segment = segments[place]
        child = self.literals.get(segment)
        if child is not None:
            yield from child.find(segments, place + 1)
        if self.any is not None and segment:
            yield from self.any.find(segments, place + 1)
        for glob, child in self.globs.items():
            if glob.fullmatch(segment) is not None:
                yield from child.find(segments, place + 1)

    def _child(self, segment: str) -> _Node[Value]:
        if _PLACEHOLDER.fullmatch(segment) is not None:
            self.any = self.any or _Node()
            return self.any
        if "*" in segment:
            return self.globs.setdefault(re.compile(_translate(segment), re.DOTALL), _Node())
        return self.literals.setdefault(segment, _Node())


def _closed(pattern: str) -> str:
    """A pattern is compared with paths that have no trailing slash."""
    return pattern.rstrip("/") or "/"


def _starting(prefixes: _Prefixes[Value], text: str) -> list[Value]:
    found: list[Value] = []
    for length, table in prefixes.items():
        if length <= len(text):
            found += table.get(text[:length], ())
    return found


def _translate(pattern: str) -> str:
    parts = re.split(r"(\{[^/{}]+\}|\*+)", pattern)
    return "".join(
        "[^/]+" if part.startswith("{") else "[^/]*" if part.startswith("*") else re.escape(part) for part in parts
    )
