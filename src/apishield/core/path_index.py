"""Which of many path patterns match a path, in time that depends on the path and hardly on how many patterns there are.

A pattern is a path in which ``{name}`` stands for one or more characters of a segment, ``*`` for any number of them, and
``*`` at the end for anything at all: ``/orders/{id}`` matches ``/orders/7``, ``/reports/{name}.csv`` matches
``/reports/may.csv``, and ``/v1/search*`` matches ``/v1/search``, ``/v1/searches`` and ``/v1/search/deep``.

Nothing here backtracks: a segment with wildcards is compared from left to right, each literal part at its first place, so
no pattern and no path that somebody thinks up can hold up a check.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")

_PLACEHOLDER = re.compile(r"\{[^/{}]+\}")
_WILDCARD = re.compile(r"(\{[^/{}]*\}|\*)")
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
    if any(character in pattern for character in "?#\\;") or not pattern.isprintable():
        return "a path pattern has no query, fragment, backslash, semicolon or control character"
    return None


def shape(pattern: str) -> str:
    """The pattern without the names of its placeholders: two of one shape match the same paths."""
    is_open = pattern.endswith("*")
    body = _STARS.sub("*", _PLACEHOLDER.sub("{}", pattern.rstrip("*") if is_open else _closed(pattern)))
    if is_open:
        return body + "*"
    return body + "/" if body.endswith("*") else body


Rank = tuple[bool, tuple[int, ...], int, str]


def rank(pattern: str) -> Rank:
    """Sorts patterns that match one path: the most particular first, and never two shapes alike.

    A pattern that ends in ``*`` comes after all that don't. Then segments are compared from the left: a literal one
    before one that is partly literal, and that before a bare placeholder. Then the one with more literal characters.
    """
    plain = shape(pattern)
    is_open = plain.endswith("*")
    segments = (plain if is_open else _closed(plain))[1:].split("/")
    kinds = [_kind(segment) for segment in segments]
    if is_open:
        kinds[-1] = _OPEN
    literal = sum(len(part) for segment in segments for part in Glob(segment).parts)
    return is_open, tuple(kinds), -literal, plain


def _kind(segment: str) -> int:
    if segment in {"{}", "*"}:
        return _ANY
    return _PARTLY if "{" in segment or "*" in segment else _LITERAL


_LITERAL, _PARTLY, _ANY, _OPEN = range(4)
_STARS = re.compile(r"\*+")


def expression(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression, which says the same as the index: for one pattern, and for tests."""
    is_open = pattern.endswith("*")
    body = pattern.rstrip("*") if is_open else _closed(pattern)
    return re.compile(_translate(body) + (".*" if is_open else ""), re.DOTALL)


class Glob:
    """One segment with wildcards, matched in time linear in the text.

    ``parts`` are its literal parts; ``gaps`` say how many characters at least stand before each, and after the last.
    """

    __slots__ = ("gaps", "parts")

    def __init__(self, segment: str) -> None:
        self.parts: list[str] = []
        self.gaps: list[int | None] = []
        gap: int | None = None  # no wildcard
        for piece in _WILDCARD.split(segment):
            if piece.startswith("{"):
                gap = (gap or 0) + 1
            elif piece.startswith("*"):
                gap = gap or 0
            elif piece:
                self.parts.append(piece)
                self.gaps.append(gap)
                gap = None
        self.gaps.append(gap)

    def matches(self, text: str, *, is_open: bool = False) -> bool:
        """Whether it matches all of ``text``; where ``is_open``, whether it matches a beginning of it."""
        place, last = 0, len(self.parts) - 1
        for number, (part, gap) in enumerate(zip(self.parts, self.gaps, strict=False)):
            if gap is None:
                found = place if text.startswith(part, place) else -1
            elif number == last and self.gaps[-1] is None and not is_open:
                found = len(text) - len(part) if text.endswith(part) else -1
            else:
                found = text.find(part, place + gap)
            if found < place + (gap or 0):
                return False
            place = found + len(part)
        tail = self.gaps[-1]
        if tail is None:
            return is_open or place == len(text)
        return len(text) - place >= tail


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
    """Where patterns have come to after some segments. Of thousands most have one child, so the rest is made when needed."""

    __slots__ = ("any", "ends", "globs", "literals", "open_globs", "prefixes")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[Value]] | None = None
        self.globs: dict[str, tuple[Glob, _Node[Value]]] | None = None
        self.any: _Node[Value] | None = None
        self.ends: list[Value] | None = None
        self.prefixes: _Prefixes[Value] | None = None
        self.open_globs: list[tuple[Glob, Value]] | None = None

    def add(self, segments: list[str], value: Value, *, is_open: bool) -> None:
        segment, *rest = segments
        if is_open and not rest:
            if "*" in segment or "{" in segment:
                self.open_globs = self.open_globs or []
                self.open_globs.append((Glob(segment), value))
            else:
                self.prefixes = self.prefixes or {}
                self.prefixes.setdefault(len(segment), {}).setdefault(segment, []).append(value)
            return
        child = self._child(segment)
        if rest:
            child.add(rest, value, is_open=is_open)
        elif child.ends is None:
            child.ends = [value]
        else:
            child.ends.append(value)

    def find(self, segments: list[str], place: int) -> Iterator[Value]:
        if place == len(segments):
            yield from self.ends or ()
            return
        segment = segments[place]
        if self.prefixes is not None:
            yield from _starting(self.prefixes, "/".join(segments[place:]))
        if self.open_globs is not None:
            yield from (value for glob, value in self.open_globs if glob.matches(segment, is_open=True))
        if self.literals is not None:
            child = self.literals.get(segment)
            if child is not None:
                yield from child.find(segments, place + 1)
        if self.any is not None and segment:
            yield from self.any.find(segments, place + 1)
        if self.globs is not None:
            for glob, child in self.globs.values():
                if glob.matches(segment):
                    yield from child.find(segments, place + 1)

    def _child(self, segment: str) -> _Node[Value]:
        if "*" not in segment and "{" not in segment:
            self.literals = self.literals or {}
            child = self.literals.get(segment)
            if child is None:
                child = self.literals[segment] = _Node()
            return child
        if _PLACEHOLDER.fullmatch(segment) is not None:
            self.any = self.any or _Node()
            return self.any
        named = _STARS.sub("*", _PLACEHOLDER.sub("{}", segment))
        self.globs = self.globs or {}
        return self.globs.setdefault(named, (Glob(named), _Node()))[1]


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
