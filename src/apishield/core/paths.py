"""One normaliser of request paths, used by policies, scopes, signatures and every way in.

Two spellings that a server behind us could take for the same resource come out as the same path, or are refused: a limit or
a required scope that one spelling escapes would be no limit at all.

Source: RFC 3986, section 6.2.2 (normalization), applied once; what stays ambiguous after one decoding is an error.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

MAX_PATH_CHARACTERS = 4096

# A path of these needs no work: no escape, no backslash, no empty or dot segment, no trailing slash, nothing beyond ASCII.
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,=:@-]*)+")
_MATRIX_PARAMETERS = re.compile(
    r";[^/]*"
)  # RFC 3986, section 3.3: some servers route by what stands before, others by all
_SLASHES = re.compile(r"/{2,}")
# What a server that decodes once more would take for a slash, backslash, semicolon, control character or dot segment,
# however often it was encoded (%252f, %25252f).
_ENCODED_STILL = re.compile(r"%(?:25)*(?:2f|5c|3b|[01][0-9a-f]|7f)|(?:^|/)(?:\.|%(?:25)*2e){1,2}(?=/|$)", re.IGNORECASE)


class BadPathError(ValueError):
    """The path can't be taken one way only. The message says why, for the world to read."""


def normalise(path: str) -> str:
    """The one spelling of ``path``: decoded once, slashes merged, no trailing slash, without query, fragment and matrix
    parameters (``/a;v=1/b`` is ``/a/b``), so that a limit of a resource holds however it is asked for.

    Raises ``BadPathError`` for encoded slashes, backslashes, control characters, dot segments left after one decoding,
    invalid UTF-8, relative or overlong paths; and for all of these where they come out only when
    the path is decoded again. Other double encodings stay as they are after one decoding.
    """
    if len(path) <= MAX_PATH_CHARACTERS and _PLAIN.fullmatch(path) is not None:
        return path
    path = path.partition("?")[0].partition("#")[0]
    if not path.startswith("/"):
        raise BadPathError("a path begins with a slash")
    if len(path) > MAX_PATH_CHARACTERS:
        raise BadPathError(f"it is longer than {MAX_PATH_CHARACTERS} characters")
    lowered = path.lower()
    if "%2f" in lowered:
        raise BadPathError("it has an encoded slash (%2F)")
    if "\\" in path or "%5c" in lowered:
        raise BadPathError("it has a backslash")
    try:
        decoded = unquote_to_bytes(path).decode("utf-8")
    except UnicodeError:
        raise BadPathError("it is not valid UTF-8 once decoded") from None
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in decoded):
        raise BadPathError("it has a control character")
    if ";" in decoded:
        decoded = _MATRIX_PARAMETERS.sub("", decoded)
    merged = _SLASHES.sub("/", decoded)
    if any(segment in {".", ".."} for segment in merged.split("/")):
        raise BadPathError("it has a dot segment (/./ or /../)")
    if "%" in merged and _ENCODED_STILL.search(merged) is not None:
        raise BadPathError(
            "it has an encoded slash, backslash, semicolon, control character or dot segment, encoded twice"
        )
    return merged.rstrip("/") or "/"
