"""Names of endpoints that no catalogue names."""

from __future__ import annotations

import pytest

from apishield.analytics.endpoint_names import collapse


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/orders",
        "/oauth2/token",
        "/api/v2",
        "/api/v1beta1/projects",
        "/v1alpha1/things",
        "/2.0/repositories",
        "/health-check",
        "/user_profile/settings",
        "/.well-known/openid-configuration",
        "/oauth2callback",
        "/s3/base64encode",
        "/files/sha-256",
        "/getUserById2",
        "/formats/iso8601",
        "/robots.txt",
        "/assets/app.js",
        "/internationalization",
        "/k8s/ipv4/x86_64",
        "/заказы",
    ],
)
def test_names_of_routes_stay(path: str) -> None:
    assert collapse(path) == path


@pytest.mark.parametrize(
    "value",
    [
        "1",
        "1234567",
        "-12.5",
        "52.5200,13.4050",
        "10.0.0.1",
        "2026-11-23",
        "2026-11",
        "2026-11-23T10:00:00Z",
        "2026-W47",
        "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "3F2504E04F8911D39A0C0305E82C3301",
        "d41d8cd98f00b204e9800998ecf8427e",
        "da39a3ee5e6b4b0d",
        "a1b2c3d4e5",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "cus_01J9ZK3M5N7P9Q1R3S5T7V9X1Z",
        "cus_9s6XKzkNRiz8i3",
        "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        "sk_live_9fGh2kLmNp4qRsTuVwXy",
        "order-1234",
        "user12345",
        "dQw4w9WgXcQ1",
        "ann@example.com",
        "@ann",
        "a b",
        "100%",
        "Orders('ALFKI')",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
        "x" * 65,
        "abcdefghijklmnopqrstuvwxyzabcdef",
        "how-to-write-a-slug-that-is-longer-than-anything-that-names-a-route",
    ],
)
def test_values_become_a_placeholder(value: str) -> None:
    assert collapse(f"/v1/things/{value}/parts") == "/v1/things/{id}/parts"


def test_long_paths_are_cut() -> None:
    assert collapse("/a/b/c/d/e/f/g/h") == "/a/b/c/d/e/f/g/h"
    assert collapse("/a/b/c/d/e/f/g/h/i/j") == "/a/b/c/d/e/f/g/h/…"


@pytest.mark.parametrize(("path", "name"), [(None, ""), ("", ""), ("//a//b/", "/a/b"), ("orders/7", "/orders/{id}")])
def test_what_is_no_path_has_a_name_too(path: str | None, name: str) -> None:
    assert collapse(path) == name
