"""What is wrong with a body is said of its own fields: each pointer leads to a place in it, or to one that it lacks."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from apishield.api import schemas
from apishield.api.problems import invalid
from apishield.api.schemas.common import Input
from apishield.api.schemas.endpoints import EndpointCreate
from apishield.errors import ProblemError

for module in pkgutil.iter_modules(schemas.__path__):
    import_module(f"{schemas.__name__}.{module.name}")


def _kinds(of: type[Input] = Input) -> Iterator[type[Input]]:
    for kind in of.__subclasses__():
        yield kind
        yield from _kinds(kind)


KINDS = sorted({kind for kind in _kinds() if kind.model_fields}, key=lambda kind: kind.__name__)
FIELDS = sorted({field.alias or name for kind in KINDS for name, field in kind.model_fields.items()})
names = st.sampled_from([*FIELDS, "Tokens", "", "a/b~", "limit:fixed_window", "form:by_unit", "list[str]"])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2**63, 1.5]),
    st.sampled_from(["", "x", "10/minute", "1/fortnight", "fixed_window", "token_bucket", "concurrency", "month", "*"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=4)),
    max_leaves=8,
)


def _leads_somewhere(body: Any, pointer: str) -> bool:
    """Whether ``pointer`` names something in ``body``, or something that an object in it lacks."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    for place, step in enumerate(steps):
        if isinstance(body, list):
            body = body[int(step)]
        elif isinstance(body, dict) and step in body:
            body = body[step]
        else:
            return isinstance(body, dict) and place == len(steps) - 1
    return True


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_pointer_leads_into_the_body(kind: type[Input], data: st.DataObject) -> None:
    own = {field.alias or name: values for name, field in kind.model_fields.items()}
    body = data.draw(st.fixed_dictionaries({}, optional={**own, "limit:list": values, "unknown": scalars}))
    try:
        kind.model_validate(body)
    except ValidationError as error:
        problem = invalid([{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()])
    except ProblemError as error:
        problem = error
    else:
        return
    for fault in problem.faults:
        assert _leads_somewhere(body, fault.pointer), (body, fault)
        assert "\0" not in fault.message


@pytest.mark.parametrize(
    ("cost", "pointer", "message"),
    [
        (-1, "/cost", "-1 is below 0"),
        ({"Tokens": 1}, "/cost/Tokens", "the name must match ^[a-z][a-z0-9_]{0,31}$"),
        ({"tokens": -1}, "/cost/tokens", "-1 is below 0"),
        ("1", "/cost", 'must be an integer, or integers by unit such as {"requests": 1, "tokens": 900}'),
        (True, "/cost", 'must be an integer, or integers by unit such as {"requests": 1, "tokens": 900}'),
    ],
)
def test_a_cost_that_can_t_be_is_one_fault_of_its_field(cost: object, pointer: str, message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        EndpointCreate.model_validate({"method": "GET", "path": "/orders/{id}", "cost": cost})
    problem = invalid([{**fault, "loc": ("body", *fault["loc"])} for fault in raised.value.errors()])
    assert [(fault.pointer, fault.message) for fault in problem.faults] == [(pointer, message)]
