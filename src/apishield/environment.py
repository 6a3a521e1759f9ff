"""Reads the settings of a node from where an operator puts them: the environment, ``.env``, files of secrets.

Owns: which source wins, ``…_FILE`` variants of secrets, what is said of values that can't be used
and of names that mean nothing. Does not own: what can be set (``settings``).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values
from pydantic import ValidationError

from apishield.errors import ConfigurationError
from apishield.settings import Settings, Variable, shown, variables

# Read by the SDK and the tools around the service, not by the service: no warning about them.
FOREIGN_VARIABLES = frozenset({"APISHIELD_URL", "APISHIELD_API_KEY", "APISHIELD_TOKEN", "APISHIELD_TENANT"})


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, where each came from (by field: environment, ``.env``, a file, default), and what looks wrong."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = field(default=())


def load(environment: Mapping[str, str] | None = None, env_file: Path | None = Path(".env")) -> Loaded:
    """Reads the environment, then ``env_file`` for what the environment leaves open. An empty value counts as not set.

    Raises ``ConfigurationError`` with one line for each fault: the variable, its value, the fix.
    """
    given = os.environ if environment is None else environment
    sources = {"environment": {name: value for name, value in given.items() if value}}
    if env_file is not None and env_file.is_file():
        sources[str(env_file)] = _read_env_file(env_file)
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    faults: list[str] = []
    for name, _, variable in variables():
        try:
            value, origins[name] = _look_up(variable, sources)
        except ConfigurationError as error:
            faults.append(str(error))
            continue
        if value is not None:
            values[name] = value
    try:
        settings = Settings(**values)  # strings, as variables are; Pydantic converts them
    except ValidationError as error:
        faults += _explain(error, values)
    if faults:
        raise ConfigurationError("\n".join(faults))
    settings.check()
    return Loaded(settings, origins, tuple(_unknown(sources)))


def _read_env_file(path: Path) -> dict[str, str]:
    try:
        # No interpolation: a password may hold a dollar sign.
        return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path.absolute()} can't be read ({error}). Mend or remove it.") from None


def _look_up(variable: Variable, sources: Mapping[str, Mapping[str, str]]) -> tuple[str | None, str]:
    for origin, source in sources.items():
        file_name = source.get(variable.name + "_FILE") if variable.secret else None
        if file_name is not None and variable.name in source:
            raise ConfigurationError(f"{variable.name} and {variable.name}_FILE are both set. Keep one of them.")
        if file_name is not None:
            return _read_secret_file(variable, file_name), file_name
        if variable.name in source:
            return source[variable.name].strip(), origin
    return None, "default"


def _read_secret_file(variable: Variable, file_name: str) -> str:
    try:
        value = Path(file_name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(
            f"{variable.name}_FILE is '{file_name}', which can't be read ({reason}). Name a readable file."
        ) from None
    if not value:
        raise ConfigurationError(
            f"{variable.name}_FILE is '{file_name}', which is empty. It must hold {variable.rule}."
        )
    return value


def _explain(error: ValidationError, values: Mapping[str, str]) -> Iterator[str]:
    named = {name: variable for name, _, variable in variables()}
    for field_name in dict.fromkeys(str(fault["loc"][0]) for fault in error.errors()):
        variable = named[field_name]
        yield f"{variable.name} is {shown(variable, values[field_name])}; it must be {variable.rule}."


def _unknown(sources: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    known = {variable.name for _, _, variable in variables()}
    known |= {variable.name + "_FILE" for _, _, variable in variables() if variable.secret}
    for origin, source in sources.items():
        for name in sorted(set(source) - known - FOREIGN_VARIABLES):
            if name.startswith("APISHIELD_"):
                bare = name.removeprefix("APISHIELD_")
                near = [bare] if bare in known else difflib.get_close_matches(name, known, n=1)
                yield f"{name} ({origin}) is not a setting" + (f"; did you mean {near[0]}?" if near else ".")
