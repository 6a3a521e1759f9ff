"""JSON as RFC 8259 and I-JSON (RFC 7493) have it, and nothing that two readers could take in two ways.

Refuses what Python's parser lets through: NaN and Infinity, duplicate names, lone surrogates, a byte order mark, numbers
that no 64-bit machine holds, and depth beyond any use.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

from apishield.api.problems import pointer
from apishield.errors import Fault, ProblemError

MAX_DEPTH = 64
MAX_INTEGER = 2**63 - 1
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def decode(body: bytes) -> Any:
    """The value that ``body`` spells. Raises ``malformed_json``, or ``validation_failed`` for what can't be stored."""
    if not body.strip():
        _refuse("The body is empty; send a JSON object.")
    if body.startswith(_BYTE_ORDER_MARKS):
        _refuse("The body begins with a byte order mark; JSON is plain UTF-8 (RFC 8259, section 8.1).")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(f"The body is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}.")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        _refuse(f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.")
    except RecursionError:
        _refuse(f"The body is nested deeper than {MAX_DEPTH} levels.")
    except ValueError:
        _refuse("The body has a number with thousands of digits.")
    faults = list(_faults(value, ()))
    if faults:
        raise ProblemError("validation_failed", f"{faults[0].pointer}: {faults[0].message}.", faults=faults[:50])
    return value


def _refuse(detail: str) -> NoReturn:
    raise ProblemError("malformed_json", detail)


def _refuse_constant(name: str) -> NoReturn:
    _refuse(f"The body has {name}, which is not JSON (RFC 8259, section 6).")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse(f"The body has a number that is too large: {text[:40]}.")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        _refuse(f"The body names {json.dumps(name)[:80]} twice in one object.")
    return made


def _faults(value: Any, path: tuple[str | int, ...]) -> Iterator[Fault]:
    """What can't be kept: text that no database stores, integers beyond 64 bits. Raises where ``value`` is too deep."""
    if isinstance(value, str):
        message = _text_fault(value)
        if message:
            yield Fault(pointer(("body", *path)), message)
    elif isinstance(value, dict | list):
        if len(path) >= MAX_DEPTH:
            _refuse(f"The body is nested deeper than {MAX_DEPTH} levels.")
        if isinstance(value, dict):
            for name in value:
                if _text_fault(name):
                    yield Fault(pointer(("body", *path)), f"a name in it: {_text_fault(name)}")
                    return  # a place below that name could not be written either
        for part, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _faults(inner, (*path, part))
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        yield Fault(pointer(("body", *path)), "the integer does not fit in 64 bits")


def _text_fault(text: str) -> str | None:
    if "\0" in text:
        return "NUL (U+0000) can't be stored"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "a lone surrogate is no character"
    return None
