"""How many seeds are run: a few in ``make test``, ``FAULT_SEEDS`` of them in ``make faults``, or ``FAULT_SEED``, that one.

``make faults`` notes which seeds passed, and goes on behind them when it is started again.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each seed is a test of its own; a module says in ``SEEDS`` how many it runs by itself."""
    if "seed" not in metafunc.fixturenames:
        return
    if "FAULT_SEED" in os.environ:
        seeds = [int(os.environ["FAULT_SEED"])]
    elif "FAULT_SEEDS" in os.environ:
        wanted = range(int(os.environ["FAULT_SEEDS"]))
        passed = _passed(metafunc.config, metafunc.module.__name__)
        seeds = [seed for seed in wanted if seed not in passed] or list(wanted)  # all of them passed: once more
    else:
        seeds = list(range(metafunc.module.SEEDS))
    metafunc.parametrize("seed", seeds)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes which seeds passed, and says how a failed one is repeated."""
    report = yield
    if report.when == "call" and isinstance(item, pytest.Function) and "seed" in item.fixturenames:
        seed, module = int(str(item.callspec.params["seed"])), item.module.__name__
        if report.passed:
            passed = _passed(item.config, module) | {seed}
            assert item.config.cache is not None
            item.config.cache.set(_place(module), sorted(passed))
        elif report.failed:
            path = module.replace(".", "/")
            report.sections.append(("to repeat it", f"FAULT_SEED={seed} .venv/bin/pytest {path}.py"))
    return report


def _passed(config: pytest.Config, module: str) -> set[int]:
    assert config.cache is not None
    return set(config.cache.get(_place(module), []))


def _place(module: str) -> str:
    return f"faults/{module}"
