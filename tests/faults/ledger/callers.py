"""Callers that ask, report, settle and release without a pause, whatever happens to whom they ask."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx2

from tests.faults.ledger.notes import Notes, Question, Told, Units
from tests.faults.ledger.tenants import Caller, Tenant

CALLERS = 5
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout)
_TIMEOUT_SECONDS = 60.0  # before a test calls a thing lost
_PLACES = [
    ("GET", "/orders/{}", "/orders/{id}"),
    ("POST", "/orders/{}", "/orders/{id}"),
    ("GET", "/files/{}", "/files/{id}"),
]
_STATUSES = (200, 201, 302, 404, 500)


class Callers:
    """Asks all ``urls`` in turn until it is told to stop; ``notes`` says what came of it."""

    def __init__(self, seed: int, tenant: Tenant, urls: Callable[[], list[str]]) -> None:
        self.notes = Notes()
        self._seed, self._tenant, self._urls = seed, tenant, urls
        self._stopping = asyncio.Event()
        self._number = 0

    async def run(self) -> None:
        """Returns once ``stop`` was called and every caller has its last answer. Raises what a wrong answer deserves."""
        headers = {"Authorization": f"Bearer {self._tenant.service_key}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=_TIMEOUT_SECONDS) as client,
            asyncio.TaskGroup() as callers,
        ):
            for number in range(CALLERS):
                callers.create_task(self._call(client, random.Random(f"caller {self._seed} {number}")))

    def stop(self) -> None:
        """Asks nothing new."""
        self._stopping.set()

    async def _call(self, client: httpx2.AsyncClient, dice: random.Random) -> None:
        acts = [self._check, self._batch, self._report, self._report_again, self._settle, self._release]
        while not self._stopping.is_set():
            (act,) = dice.choices(acts, [30, 12, 18, 10, 14, 4])
            await act(client, dice)
            await asyncio.sleep(0)

    # --- questions ------------------------------------------------------------------------------------------------------

    async def _check(self, client: httpx2.AsyncClient, dice: random.Random) -> None:
        question, body = self._question(dice)
        answer = await self._post(client, dice, "/v1/check", body, [question])
        if answer is not None:
            question.answered(answer["decision_id"], answer["code"])

    async def _batch(self, client: httpx2.AsyncClient, dice: random.Random) -> None:
        asked = [self._question(dice) for _ in range(dice.randint(2, 12))]
        questions = [question for question, _ in asked]
        answer = await self._post(client, dice, "/v1/check/batch", {"checks": [body for _, body in asked]}, questions)
        if answer is not None:
            for question, decision in zip(questions, answer["results"], strict=True):
                question.answered(decision["decision_id"], decision["code"])

    def _question(self, dice: random.Random) -> tuple[Question, dict[str, Any]]:
        self._number += 1
        caller: Caller = dice.choice(self._tenant.callers)
        method, path, endpoint = dice.choice(_PLACES)
        units = _cost(dice)
        holds, is_peek = dice.random() < 0.4, dice.random() < 0.05
        country = dice.choice(["DE", "FR", ""])
        question = Question(
            self._number, caller.key_id, method, path.format(self._number), endpoint, country, caller.environment,
            units, is_peek=is_peek, holds=holds and not is_peek,
        )  # fmt: skip
        cost: int | Units = 0 if is_peek else units["requests"] if len(units) == 1 else units
        body: dict[str, Any] = {"method": method, "path": question.path, "cost": cost, "ip": "203.0.113.9"}
        if caller.secret:
            body["api_key"] = caller.secret
        else:
            body["require_key"] = True
        if country:
            body["country"] = country
        if question.holds:
            body["reserve"] = True
        return question, body

    # --- what became of them --------------------------------------------------------------------------------------------

    async def _report(self, client: httpx2.AsyncClient, dice: random.Random) -> None:
        """Tells results of some decisions, in any order, however old they are."""
        questions = self._some_answered(dice, dice.randint(1, 8))
        if not questions:
            return
        for question in questions:
            if question.told is None:
                number = question.number
                question.told = Told(dice.choice(_STATUSES), number % 40 + 0.5, number % 700)
        receipt = await self._post(client, dice, "/v1/report", {"events": [_event(question) for question in questions]})
        if receipt is not None:
            assert receipt["accepted"] + receipt["duplicates"] == len(questions), receipt
            for question in questions:
                assert question.told is not None
                question.told.sure = True

    async def _report_again(self, client: httpx2.AsyncClient, dice: random.Random) -> None:
        """Tells a result twice at once, to any nodes."""
        questions = [question for question in self._some_answered(dice, 8) if question.told is not None]
        for question in questions[:1]:
            bodies = [{"events": [_event(question)]}] * 2
            receipts = await asyncio.gather(*(self._post(client, dice, "/v1/report", body) for body in bodies))
            for receipt in receipts:
                if receipt is not None:
                    assert receipt["accepted"] + receipt["duplicates"] == 1, receipt
                    assert question.told is not None
                    question.told.sure = True

    async def _settle(self, client: httpx2.AsyncClient, dice: random.Random) -> None:
        """Tells the true cost of a reservation, with its result."""
        question = self._reserved(dice)
        if question is None:
            return
        units = _cost(dice)
        question.told = question.told or Told(200, 5.5, 10)
        event = {**_event(question), "cost": units}
        final = {**question.units, **units}
        question.settles(final)
        receipt = await self._post(client, dice, "/v1/report", {"events": [event]})
        if receipt is None:
            return
        if not receipt["accepted"] + receipt["duplicates"]:  # told before, to another node, or released
            assert [each["code"] for each in receipt["rejected"]] == ["not_reserved"], receipt
        question.was_settled(final, taken=bool(receipt["accepted"]))
        question.told.sure = True

    async def _release(self, client: httpx2.AsyncClient, dice: random.Random) -> None:
        question = self._reserved(dice)
        if question is None:
            return
        nothing = dict.fromkeys(question.units, 0)
        question.settles(nothing)
        answer = await self._post(client, dice, f"/v1/decisions/{question.decision_id}/release", {})
        if answer is not None:
            question.was_settled(nothing, taken=answer["released"])

    def _some_answered(self, dice: random.Random, count: int) -> list[Question]:
        known = [question for question in self.notes.answered() if not question.is_peek]
        return dice.sample(known, min(count, len(known)))

    def _reserved(self, dice: random.Random) -> Question | None:
        """A reservation that is nobody else's turn to settle, as a rule one of the last."""
        for question in reversed(self.notes.questions):
            if question.holds and question.code == "ok" and not question.is_settled and dice.random() < 0.5:
                question.is_settled = dice.random() < 0.7  # of some it is told again
                return question
        return None

    async def _post(
        self, client: httpx2.AsyncClient, dice: random.Random, path: str, body: Any, asked: list[Question] | None = None
    ) -> Any:
        """Posts to any node; ``None`` where no answer came. ``asked`` is noted unless it surely wasn't sent."""
        try:
            response = await client.post(dice.choice(self._urls()) + path, json=body)
        except _NOT_SENT:
            self.notes.refused_connections += 1
            await asyncio.sleep(0.05)  # nobody is there, or everybody would spin
            return None
        except httpx2.TransportError:
            self.notes.broken += 1
            self.notes.questions += asked or []
            return None
        self.notes.answers += 1
        self.notes.questions += asked or []
        assert response.status_code in {200, 202}, (path, response.status_code, response.text)
        return response.json()


def _cost(dice: random.Random) -> Units:
    if dice.random() < 0.5:
        return {"requests": dice.randint(1, 3)}
    return {"requests": 1, dice.choice(["tokens", "rows"]): dice.randint(1, 500)}


def _event(question: Question) -> dict[str, Any]:
    assert question.told is not None
    told = question.told
    return {
        "decision_id": question.decision_id,
        "status": told.status,
        "latency_ms": told.latency_ms,
        "bytes": told.bytes,
    }
