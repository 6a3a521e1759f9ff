"""Keeps secrets and control characters out of what people read: logs, banners, error lines."""

from __future__ import annotations

import re

# A key or token: the prefix and enough of what follows to be more than the hint that may be shown.
_CREDENTIAL = re.compile(r"\b(sk_live_|sk_test_|ast_|aso_|whsec_)[A-Za-z0-9_\-+/=]{12,}")
_URL_PASSWORD = re.compile(r"([a-z][a-z0-9+.-]{1,30}://[^\s:/@]{0,256}:)[^\s]{1,1024}(@)", re.IGNORECASE)
_QUERY_PASSWORD = re.compile(r"([?&][a-z_]*passw[a-z]*=)[^&#]*", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def redact(text: str) -> str:
    """``text`` without API keys, tokens and passwords in URLs."""
    text = _CREDENTIAL.sub(r"\1…", text) if "_" in text else text
    return _URL_PASSWORD.sub(r"\1***\2", text) if "://" in text else text


def escape(text: str) -> str:
    """``text`` on one line: control characters (CR, LF, ANSI, direction marks) become visible escapes."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def redact_url(url: str) -> str:
    """``url`` with its password, in whatever place, replaced by ``***``; works on URLs that don't parse, too."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return redact(url)
    credentials, at, address = rest.rpartition("@")  # the last one: an unescaped password may hold any character
    user = credentials.partition(":")[0]
    visible = f"{user}:***@{address}" if ":" in credentials else f"{user}{at}{address}"
    return f"{scheme}://" + _QUERY_PASSWORD.sub(r"\1***", visible)
