"""Which of many path patterns match a path, in time that depends on the path and hardly on how many patterns there are.

A pattern is a path in which ``{name}`` stands for one or more characters of a segment, ``*`` for any number of them, and
``*`` at the end for anything at all: ``/orders/{id}`` matches ``/orders/7``, ``/reports/{name}.csv`` matches
``/reports/may.csv``, and ``/v1/search*`` matches ``/v1/search``, ``/v1/searches`` and ``/v1/search/deep``. ``/files/*``
matches ``/files`` too: normal paths have no trailing slash, and an application may well take ``/files/`` for one of them.

Nothing here backtracks: a segment with wildcards is compared from left to right, each literal part at its first place, and
each pattern once at most, so no pattern and no path that somebody thinks up can hold up a check.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

Value = TypeVar("Value")

_PLACEHOLDER = re.compile(r"\{[^/{}]+\}")
_WILDCARD = re.compile(r"(\{[^/{}]*\}|\*)")
MAX_PATTERN_CHARACTERS = 1024
MAX_SEGMENTS = 32
MAX_WILDCARDS = 8


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
    if pattern.count("/") > MAX_SEGMENTS:
        return f"a path pattern has at most {MAX_SEGMENTS} segments"
    if len(_WILDCARD.findall(_STARS.sub("*", pattern))) > MAX_WILDCARDS:
        return f"a path pattern has at most {MAX_WILDCARDS} placeholders and asterisks"
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
    literal = sum(map(len, segments)) - 2 * plain.count("{}") - plain.count("*") + is_open
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
    if is_open and body.endswith("/"):
        return re.compile(_translate(body[:-1]) + "(?:/.*)?", re.DOTALL)
    return re.compile(_translate(body) + (".*" if is_open else ""), re.DOTALL)


class Glob:
    """One segment with wildcards, matched in time linear in the text.

    ``parts`` are its literal parts; ``gaps`` say how many characters at least stand before each, and after the last.
    """

    __slots__ = ("gaps", "parts", "text")

    def __init__(self, segment: str) -> None:
        self.text = _STARS.sub("*", _PLACEHOLDER.sub("{}", segment))
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
        self._prefixes: dict[int, dict[str, list[Value]]] = {}
        self._root: _Node[Value] = _Node()

    def add(self, pattern: str, value: Value) -> None:
        """Takes a pattern in. The same pattern may stand for several values."""
        route = _Route(pattern, value)
        if route.is_plain:
            for table, text in self._tables(pattern):
                table.setdefault(text, []).append(value)
        else:
            self._root.add(route, 0)

    def remove(self, pattern: str, value: Value) -> None:
        """Takes out what was added with this pattern and value."""
        route = _Route(pattern, value)
        if route.is_plain:
            for table, text in self._tables(pattern):
                table[text].remove(value)
                if not table[text]:
                    del table[text]
            self._prefixes = {length: table for length, table in self._prefixes.items() if table}
        else:
            self._root.remove(route, 0)

    def find(self, path: str) -> list[Value]:
        """What stands for all patterns that match a normal path, in no particular order."""
        found = list(self._exact.get(path, ()))
        for length, table in self._prefixes.items():
            if length <= len(path):
                found += table.get(path[:length], ())
        if not self._root.is_empty():
            self._root.find(path[1:].split("/"), found)
        return found

    def _tables(self, pattern: str) -> list[tuple[dict[str, list[Value]], str]]:
        """Where a pattern without placeholders lies, and as what."""
        if not pattern.endswith("*"):
            return [(self._exact, _closed(pattern))]
        body = pattern.rstrip("*")
        tables = [(self._prefixes.setdefault(len(body), {}), body)]
        if body.endswith("/") and body != "/":
            tables.append((self._exact, body[:-1]))
        return tables


class _Route(Generic[Value]):
    """A pattern, ready to be compared: its segments are themselves, ``None`` for a bare placeholder, or globs.

    Where it ``is_open``, its last one need only match a beginning; where it ``is_above``, it covers all that lies below.
    """

    __slots__ = ("is_above", "is_open", "pattern", "tokens", "value")

    def __init__(self, pattern: str, value: Value) -> None:
        self.pattern = pattern
        self.value = value
        is_open = pattern.endswith("*")
        body = pattern.rstrip("*") if is_open else _closed(pattern)
        self.is_above = is_open and body.endswith("/")
        self.is_open = is_open and not self.is_above
        segments = body[1:].split("/")
        self.tokens = [*map(_token, segments[:-1] if self.is_above else segments)]

    @property
    def is_plain(self) -> bool:
        return all(isinstance(token, str) for token in self.tokens)

    def matches(self, segments: list[str], place: int) -> bool:
        """Whether it matches a path, of which the segments before ``place`` are known to match."""
        tokens = self.tokens
        if len(segments) != len(tokens) and (len(segments) < len(tokens) or not (self.is_open or self.is_above)):
            return False
        last = len(tokens) - 1 if self.is_open else len(tokens)
        for number in range(place, last):
            token, segment = tokens[number], segments[number]
            if token is None:
                if not segment:
                    return False
            elif not (token == segment if isinstance(token, str) else token.matches(segment)):
                return False
        return not self.is_open or self.begins(segments[last])

    def begins(self, segment: str) -> bool:
        """Whether its last segment matches a beginning of ``segment``."""
        token = self.tokens[-1]
        if token is None:
            return bool(segment)
        return segment.startswith(token) if isinstance(token, str) else token.matches(segment, is_open=True)


def _token(segment: str) -> str | Glob | None:
    if "{" not in segment and "*" not in segment:
        return segment
    return None if _PLACEHOLDER.fullmatch(segment) is not None else Glob(segment)


class _Node(Generic[Value]):
    """Where patterns have come to after some segments. A few are just kept; more are told apart by their next segment.

    So there are about as many nodes as patterns, however long those are, and a look-up is as short.
    """

    __slots__ = ("_above", "_any", "_ends", "_few", "_globs", "_literals", "_open")

    def __init__(self) -> None:
        self._few: list[_Route[Value]] | None = []
        self._ends: list[_Route[Value]] = []
        self._above: list[_Route[Value]] = []
        self._open: list[_Route[Value]] = []
        self._literals: dict[str, _Node[Value]] = {}
        self._globs: dict[str, tuple[Glob, _Node[Value]]] = {}
        self._any: _Node[Value] | None = None

    def is_empty(self) -> bool:
        return not (self._few or self._ends or self._above or self._open or self._literals or self._globs or self._any)

    def add(self, route: _Route[Value], place: int) -> None:
        if self._few is None:
            self._settle(route, place)
            return
        self._few.append(route)
        if len(self._few) > _FEW:
            few, self._few = self._few, None
            for each in few:
                self._settle(each, place)

    def remove(self, route: _Route[Value], place: int) -> None:
        here = self._here(route, place) if self._few is None else self._few
        if here is not None:
            here[:] = [each for each in here if each.value is not route.value or each.pattern != route.pattern]
            return
        token = route.tokens[place]
        child = self._child(token)
        child.remove(route, place + 1)
        if child.is_empty():
            if token is None:
                self._any = None
            elif isinstance(token, str):
                del self._literals[token]
            else:
                del self._globs[token.text]

    def find(self, segments: list[str], found: list[Value]) -> None:
        waiting: list[tuple[_Node[Value], int]] = [(self, 0)]
        while waiting:
            node, place = waiting.pop()
            if node._few is not None:
                found += [route.value for route in node._few if route.matches(segments, place)]
                continue
            found += [route.value for route in node._above]
            if place == len(segments):
                found += [route.value for route in node._ends]
                continue
            segment = segments[place]
            found += [route.value for route in node._open if route.begins(segment)]
            child = node._literals.get(segment)
            if child is not None:
                waiting.append((child, place + 1))
            if node._any is not None and segment:
                waiting.append((node._any, place + 1))
            waiting += [(child, place + 1) for glob, child in node._globs.values() if glob.matches(segment)]

    def _settle(self, route: _Route[Value], place: int) -> None:
        here = self._here(route, place)
        if here is not None:
            here.append(route)
        else:
            self._child(route.tokens[place]).add(route, place + 1)

    def _here(self, route: _Route[Value], place: int) -> list[_Route[Value]] | None:
        """Where the route lies if it goes no further than this node."""
        if place == len(route.tokens):
            return self._above if route.is_above else self._ends
        return self._open if route.is_open and place == len(route.tokens) - 1 else None

    def _child(self, token: str | Glob | None) -> _Node[Value]:
        if token is None:
            self._any = self._any or _Node()
            return self._any
        if isinstance(token, str):
            child = self._literals.get(token)
            if child is None:
                child = self._literals[token] = _Node()
            return child
        return self._globs.setdefault(token.text, (token, _Node()))[1]


_FEW = 4


def _closed(pattern: str) -> str:
    """A pattern is compared with paths that have no trailing slash."""
    return pattern.rstrip("/") or "/"


def _translate(pattern: str) -> str:
    parts = re.split(r"(\{[^/{}]+\}|\*+)", pattern)
    return "".join(
        "[^/]+" if part.startswith("{") else "[^/]*" if part.startswith("*") else re.escape(part) for part in parts
    )
