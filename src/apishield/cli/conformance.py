"""``apishield conformance``: how exact is a limiter? Ours, one behind an HTTP endpoint, or a Python object."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from apishield.cli.output import EXIT_FAILED, err, out, print_json, print_table, say
from apishield.core.rate_limiter.parse import RateAlgorithm, parse_limit
from apishield.errors import ConfigurationError

if TYPE_CHECKING:
    from apishield.conformance.score import Score, Trials
    from apishield.conformance.subjects import Target

SERVICE_LIMITS = (("10/2s",), ("10/2s fixed",), ("10/2s burst 10",), ("5/1s", "8/2s"))
"""What is tried where a service can make keys with any limits: each algorithm, and two limits at once."""


def conformance(
    target: Annotated[str | None, typer.Option(help="URL of an APIShield.")] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="APISHIELD_TOKEN", help="Owner's token of a tenant; with --key a service key will do."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="An existing caller's key to check; give its limits with --limit.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="URL of any endpoint behind a limiter; {subject} is replaced.")
    ] = None,
    header: Annotated[list[str], typer.Option(help="'Name: value' to send to --url; {subject} is replaced.")] = [],  # noqa: B006
    adapter: Annotated[str | None, typer.Option(help="module:object that makes a Python adapter.")] = None,
    limit: Annotated[
        list[str],
        typer.Option(help='"10/2s" (sliding), "10/2s fixed", "10/2s burst 20"; repeated: several that hold at once.'),
    ] = [],  # noqa: B006
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of all schedules (1; in simulated time 100).", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same schedules.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score the accuracy of a limiter: never over, hardly under, Retry-After, refusals, races, several limits at once.

    Give exactly one of --target, --url and --adapter. Exits 1 where a promise is broken.
    See docs/how-to/score-a-limiter.md.

    Examples:

    apishield conformance --target http://localhost:8000 --token ast_…

    apishield conformance --url http://localhost:9000/ --header "X-API-Key: {subject}" --limit 10/2s

    apishield conformance --adapter my_limiter:make --limit 20/minute
    """
    sets = [[_rule(text) for text in limit]] if limit else []
    scored: Target
    if (target is not None) + (url is not None) + (adapter is not None) != 1:
        raise typer.BadParameter("Give exactly one of --target, --url and --adapter.")
    from apishield.conformance import targets  # noqa: PLC0415  other commands start faster without it

    if target is not None:
        if token is None:
            raise typer.BadParameter("An APIShield is asked with a tenant's token.", param_hint="--token")
        if key is None and not sets:
            sets = [[_rule(text) for text in texts] for texts in SERVICE_LIMITS]
        scored = targets.ServiceTarget(target, token, key)
    elif url is not None:
        scored = targets.UrlTarget(url, dict(_header(text) for text in header))
    else:
        from apishield.conformance.adapter import load_adapter  # noqa: PLC0415

        assert adapter is not None
        scored = targets.AdapterTarget(load_adapter(adapter))
    if not sets:
        raise typer.BadParameter("Say which limit the target holds, such as 10/2s.", param_hint="--limit")
    scores = asyncio.run(_run(scored, sets, rounds, seed))
    if as_json:
        print_json(scores)
    else:
        for score in scores:
            _show(score)
    if any(score.broken for score in scores):
        raise typer.Exit(EXIT_FAILED)


async def _run(target: Target, sets: Sequence[Sequence[RateAlgorithm]], rounds: int | None, seed: int) -> list[Score]:
    from apishield.conformance.run import run  # noqa: PLC0415
    from apishield.conformance.score import describe  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    scores: list[Score] = []
    try:
        with Progress(*columns, console=err, transient=True) as bars:
            for rules in sets:
                bar = bars.add_task(", ".join(describe(rule) for rule in rules))

                def progress(done: int, total: int, bar: object = bar) -> None:
                    bars.update(bar, completed=done, total=total)  # type: ignore[arg-type]

                scores.append(await run(target, rules, rounds=rounds, seed=seed, progress=progress))
    finally:
        await target.close()
    return scores


def _show(score: Score) -> None:
    """A score for people."""
    from apishield.conformance.score import HARDLY_UNDER, NEVER_OVER  # noqa: PLC0415

    out.print(f"\n{' and '.join(score.limits)}: {score.checks:,} checks, {score.admitted:,} admitted\n", markup=False)
    over = f"{score.over_units} over, {score.over_percent:g} % ({score.over_in})" if score.over_units else "0 over"
    early = f"{score.early_percent:g} % of the window too early" + (f" ({score.early_in})" if score.early_in else "")
    rows = [(NEVER_OVER, over), (HARDLY_UNDER, early)]
    rows += [(promise, _tried(trials)) for promise, trials in score.trials.items()]
    print_table(
        ("Promise", "Worst", ""),
        [(name, text, "BROKEN" if name in score.broken else "kept") for name, text in rows],
        "",
    )
    if score.broken:
        say(f"\n{len(score.broken)} of {len(rows)} promises are broken.")


def _tried(trials: Trials) -> str:
    text = f"kept {trials.kept:,} of {trials.tried:,} times"
    if not trials.most_units:
        return text
    units = (
        f"{trials.fewest_units} to {trials.most_units}"
        if trials.fewest_units < trials.most_units
        else str(trials.most_units)
    )
    return f"{text}; units {units}"


def _rule(text: str) -> RateAlgorithm:
    try:
        return parse_limit(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--limit") from None


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ConfigurationError(f"header is {text!r}; give one such as 'X-API-Key: {{subject}}'.")
    return name.strip(), value.strip()
