"""Plain classes that become machine code where they are compiled, and what is next best where they are not.

``scripts/wheel.sh`` makes a wheel in which the limiter and the memory store are compiled (mypyc): fields of such classes then
lie in a row, and numbers are no objects. Interpreted, structs of ``msgspec`` come closest. In neither form does the garbage
collector walk them: a million of them would hold up a check for a tenth of a second.
"""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any, TypeVar, cast

import msgspec

Class = TypeVar("Class", bound=type)


def is_compiled(made: type) -> bool:
    """Whether ``made`` is machine code."""
    return hasattr(made, "__mypyc_attrs__")


def untracked(made: Class) -> Class:
    """``made`` as a struct that the garbage collector leaves alone, unless it is compiled and so alone already.

    What ``__init__`` asks for are the fields that it must be given. Where it has others, with their defaults, it is run to
    set them; where it has none, it is frozen. Special methods are left to the struct.
    """
    if is_compiled(made):
        return made
    fields: dict[str, Any] = {}
    methods: dict[str, Any] = {}
    for each in reversed(made.__mro__[:-1]):
        fields |= dict.fromkeys(inspect.get_annotations(each), None)
        for name, value in vars(each).items():
            if name in fields:
                fields[name] = value
            elif isinstance(value, FunctionType) and not name.startswith("__"):
                methods[name] = value
    begin: Any = vars(made)["__init__"]
    given = list(inspect.signature(begin).parameters)[1:]
    rest = [(name, Any, default) for name, default in fields.items() if name not in given]
    if rest:
        methods["__post_init__"] = lambda self: begin(self, *[getattr(self, name) for name in given])
    struct: Any = msgspec.defstruct(
        made.__name__,
        [*((name, Any) for name in given), *rest],
        module=made.__module__,
        namespace=methods | {"__doc__": made.__doc__},
        frozen=not rest,
        gc=False,
    )
    return cast(Class, struct)
