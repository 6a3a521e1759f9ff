"""What a scrape says, and real Prometheus servers for the tests."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, ...], float]


def read_samples(content: bytes | str) -> Samples:
    """The values of a scrape, by name and the values of the labels (in the order of the labels' values)."""
    text = content if isinstance(content, str) else content.decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
