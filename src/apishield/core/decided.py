"""A decision that was made and is not yet put into a form: each way in asks for the form that it sends.

A gateway sends headers, ``POST /v1/check`` sends JSON. To make a struct with all that a decision says, and to encode that,
takes three times as long as to write the JSON down: of what it says only few numbers differ from check to check.
"""

from __future__ import annotations

import msgspec

from apishield.core.decision import Decision, KeyView, in_json
from apishield.core.model import SECOND_US
from apishield.core.rendering import FRACTIONS, Rendered, json_limits

_CHALLENGE = 'Bearer realm="api"'


class Whose(msgspec.Struct, frozen=True, gc=False):
    """The tenant that a decision is about and, where one was known, the key. ``members`` is both as members of an object."""

    tenant_id: str
    key: KeyView | None
    members: str

    @classmethod
    def of(cls, tenant_id: str, key: KeyView | None = None) -> Whose:
        """Made once for each key, not for each check."""
        return cls(tenant_id, key, f'"tenant_id":{in_json(tenant_id)},"key":{in_json(key)}')


class Decided(msgspec.Struct, frozen=True, gc=False):
    """One decision; ``headers``, ``json`` and ``decision`` are its forms.

    ``draft`` and ``legacy`` say which headers it has of its limits.
    """

    status: int
    decision_id: str
    whose: Whose
    rendered: Rendered
    degraded: bool
    draft: bool = True
    legacy: bool = True

    @property
    def allowed(self) -> bool:
        """Whether the check passes."""
        return self.status == 200

    def headers(self) -> dict[str, str]:
        """What the API should pass on to its caller."""
        headers = self.rendered.headers(draft=self.draft, legacy=self.legacy)
        headers["X-APIShield-Decision"] = self.decision_id
        if self.status == 401:
            headers["WWW-Authenticate"] = _CHALLENGE
        if self.degraded:
            headers["X-APIShield-Degraded"] = "true"
        return headers

    def json(self) -> str:
        """``decision`` as JSON."""
        rendered, decision_id, status = self.rendered, self.decision_id, self.status
        limits, headers = json_limits(rendered.enforced, rendered.now_us, draft=self.draft, legacy=self.legacy)
        if status == 200 and not rendered.shadow and not self.degraded:  # as most are
            return (
                f'{{"allowed":true,"code":"ok","status":200,"message":"","decision_id":"{decision_id}",{self.whose.members},'
                f'"limits":[{limits}],"shadow":[],"retry_after":null,"headers":{{{headers}'
                f'"X-APIShield-Decision":"{decision_id}"}},"degraded":false,"limits_omitted":{rendered.omitted}}}'
            )
        shadow, retry_after, more, wait_us = "", "null", "", rendered.retry_after_us
        if rendered.shadow:
            shadow, _ = json_limits(rendered.shadow, 0, draft=False, legacy=False)
        if wait_us is not None:
            milliseconds = -(-wait_us // 1000)
            retry_after = f"{milliseconds // 1000}{FRACTIONS[milliseconds % 1000]}"
            headers = f'{headers}"Retry-After":"{-(-wait_us // SECOND_US)}",'
        if status == 401:
            more = f',"WWW-Authenticate":{in_json(_CHALLENGE)}'
        if self.degraded:
            more += ',"X-APIShield-Degraded":"true"'
        return (
            f'{{"allowed":{"true" if status == 200 else "false"},"code":"{rendered.code}","status":{status},'
            f'"message":{in_json(rendered.message)},"decision_id":"{decision_id}",{self.whose.members},'
            f'"limits":[{limits}],"shadow":[{shadow}],"retry_after":{retry_after},"headers":{{{headers}'
            f'"X-APIShield-Decision":"{decision_id}"{more}}},"degraded":{"true" if self.degraded else "false"},'
            f'"limits_omitted":{rendered.omitted}}}'
        )

    def decision(self) -> Decision:
        """All of it."""
        rendered, whose = self.rendered, self.whose
        return Decision(
            self.allowed,
            rendered.code,
            self.status,
            rendered.message,
            self.decision_id,
            whose.tenant_id,
            whose.key,
            rendered.limits(),
            rendered.shadow_limits(),
            rendered.retry_after,
            self.headers(),
            self.degraded,
            rendered.omitted,
        )
