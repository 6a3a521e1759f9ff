"""Each error code has its page, and no page is about a code that is none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from apishield.errors import PROBLEM_TYPE_BASE, PROBLEMS

PAGES = Path(__file__).parents[2] / "docs" / "errors"


def test_there_is_a_page_for_every_code_and_for_nothing_else() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {*PROBLEMS, "index"}


def test_the_index_lists_every_code_with_its_status_and_title() -> None:
    index = (PAGES / "index.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\) \| (\d+) \| (.+) \|$", index, re.MULTILINE)
    assert sorted(rows) == sorted((code, code, str(p.status), p.title) for code, p in PROBLEMS.items())


@pytest.mark.parametrize("code", PROBLEMS)
def test_a_page_says_what_happened_how_to_fix_it_common_mistakes_and_shows_an_example(code: str) -> None:
    text = (PAGES / f"{code}.md").read_text()
    assert text.startswith(f"# `{code}`: {PROBLEMS[code].title}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
        "What happened",
        "How to fix it",
        "Common mistakes",
        "Example",
    ]
    example = json.loads(text.split("```json\n")[1].split("```")[0])
    assert example["type"] == f"{PROBLEM_TYPE_BASE}{code}.md"
    assert (example["code"], example["status"], example["title"]) == (code, *PROBLEMS[code])
