"""The compiled limiter and the steps around it: the wheel is built, and what is in it decides as the sources do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAME_FOR_BOTH = [
    "tests/conformance/test_promises.py",
    "tests/conformance/test_verdicts.py",
    "tests/conformance/test_twins.py",
    "tests/properties/test_decided_together.py",
    "tests/properties/test_limiter_taken_units.py",
    "tests/properties/test_ready_counters.py",
    "tests/unit/test_memory_store.py",
    "tests/unit/test_headers.py",
    "tests/unit/test_rendering.py",
    "tests/unit/test_decided.py",
    "tests/api/test_check.py",
    "tests/api/test_shadow.py",
]
COMPILED = """
from apishield import clock, later
from apishield.core import decided, outcome, rendering
from apishield.core.rate_limiter import states, verdict
from apishield.services import engine, recorder, screening
from apishield.stores import memory
assert states.COMPILED
for module in (clock, decided, engine, later, memory, outcome, recorder, rendering, screening, states, verdict):
    assert not module.__file__.endswith(".py"), module.__file__
"""


@pytest.mark.timeout(900)
def test_the_compiled_limiter_keeps_every_promise_that_the_interpreted_one_keeps() -> None:
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("there is no C compiler here: THE COMPILED LIMITER WAS NOT TESTED")
    built = subprocess.run([ROOT / "scripts/wheel.sh"], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    environment = os.environ | {"PYTHONPATH": built.stdout.strip()}
    subprocess.run([sys.executable, "-c", COMPILED], env=environment, check=True)
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    told = subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, *SAME_FOR_BOTH],
        cwd=ROOT,
        env={name: value for name, value in environment.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout
    assert " passed" in told.stdout
    assert " skipped" not in told.stdout
