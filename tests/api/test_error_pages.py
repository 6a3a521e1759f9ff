"""Each error code has its page, and no page is about a code that is none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from apishield.errors import PROBLEM_TYPE_BASE, PROBLEMS, REJECTIONS
from apishield.services.reports import Rejection

PAGES = Path(__file__).parents[2] / "docs" / "errors"


def test_there_is_a_page_for_every_code_and_for_nothing_else() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {*PROBLEMS, *REJECTIONS, "index"}


def test_the_index_lists_every_code_with_its_status_and_title() -> None:
    index = (PAGES / "index.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\) \| (\d+) \| (.+) \|$", index, re.MULTILINE)
    assert sorted(rows) == sorted((code, code, str(p.status), p.title) for code, p in PROBLEMS.items())
    rows_of_events = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\) \| ([^|]+) \|$", index, re.MULTILINE)
    assert sorted(rows_of_events) == sorted((code, code, title) for code, title in REJECTIONS.items())


def test_every_code_of_a_rejected_event_has_a_page() -> None:
    assert {*REJECTIONS} < {*get_args(get_type_hints(Rejection)["code"])} < {*REJECTIONS, *PROBLEMS}


@pytest.mark.parametrize("code", PROBLEMS)
def test_a_page_says_what_happened_how_to_fix_it_common_mistakes_and_shows_an_example(code: str) -> None:
    example = _example(code, PROBLEMS[code].title)
    assert example["type"] == f"{PROBLEM_TYPE_BASE}{code}.md"
    assert (example["code"], example["status"], example["title"]) == (code, *PROBLEMS[code])


@pytest.mark.parametrize("code", REJECTIONS)
def test_a_page_of_a_rejected_event_says_the_same(code: str) -> None:
    assert msgspec.convert(_example(code, REJECTIONS[code]), Rejection).code == code


def _example(code: str, title: str) -> dict[str, Any]:
    """The example of a page, whose parts are checked."""
    text = (PAGES / f"{code}.md").read_text()
    assert text.startswith(f"# `{code}`: {title}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
        "What happened",
        "How to fix it",
        "Common mistakes",
        "Example",
    ]
    example: dict[str, Any] = json.loads(text.split("```json\n")[1].split("```")[0])
    return example
