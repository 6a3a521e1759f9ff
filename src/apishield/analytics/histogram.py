"""How long requests took, as counts in buckets that grow with the value: any quantile is right within 1 %.

A bucket holds the whole numbers of microseconds from ``low`` to ``high`` and is read as the number ``middle`` between them.
With ``middle = low + ⌊low / 100⌋`` and ``high = ⌊100 · middle / 99⌋``, ``middle`` is at most ``low / 100`` above ``low`` and at
most ``high / 100`` below ``high``: so every value in the bucket is read with a relative error of at most 1 %. The next bucket
begins at ``high + 1``. Below 99 µs every number has a bucket of its own and is exact; then they grow by about 2 % each, and
some 1,100 of them reach a day. Whole numbers throughout: no rounding differs between machines.

Counts of two histograms add up bucket by bucket to exactly the histogram of all their values, in any order.

Source: Masson, Rim, Lee: DDSketch, a fast and fully-mergeable quantile sketch with relative-error guarantees, VLDB 2019; its
logarithm is replaced by a table of whole numbers.

As bytes: the version, the bytes a count takes (1, 2, 4 or 8), how many buckets follow (two bytes, little endian), then for each
bucket how far it lies behind the one before (one byte; a longer way is made in several steps, through buckets that count 0),
then the counts, little endian. Bytes of histograms, one after the other, are bytes of their sum: a database adds one to
another without reading either.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, compress
from struct import Struct
from typing import Final, TypeVar

MAX_VALUE_US: Final = 86_400_000_000
"""One day. Longer values are counted as that long."""

_Key = TypeVar("_Key", bound=Hashable)

_VERSION: Final = 1
_HEADER_BYTES: Final = 4
_LONGEST_WAY: Final = 255
_COUNTS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}


class HistogramError(ValueError):
    """The bytes are no histogram that this version can read. The message says what is wrong with them."""


def _buckets() -> tuple[list[int], list[int]]:
    """The lowest value of each bucket, and the value that it is read as."""
    lows, middles = [0], [0]
    while (high := middles[-1] * 100 // 99) < MAX_VALUE_US:
        lows.append(high + 1)
        middles.append(high + 1 + (high + 1) // 100)
    middles[-1] = min(middles[-1], MAX_VALUE_US)
    return lows, middles


_LOWS, _MIDDLES = _buckets()
BUCKETS: Final = len(_LOWS)
"""How many buckets there are: what bounds a histogram's size."""


def bucket_of(value_us: int) -> int:
    """The number of the bucket that counts ``value_us``. Raises ``ValueError`` for a negative value."""
    if value_us < 0:
        raise ValueError(f"{value_us} µs is negative; a latency is 0 or more")
    return bisect_right(_LOWS, value_us) - 1


class Histogram:
    """Counts of values by bucket. Two are equal where all their counts are.

    Values that were added one by one lie side by side until they are asked for: most histograms of an intake hold a few, and
    are only ever added to one another.
    """

    __slots__ = ("_counts", "_loose")

    def __init__(self, counts: dict[int, int] | None = None) -> None:
        self._counts: dict[int, int] = {} if counts is None else counts
        self._loose: list[int] = []

    @property
    def counts(self) -> dict[int, int]:
        """How many values each bucket counts; none counts 0."""
        if self._loose:
            counts = self._counts
            for bucket in self._loose:
                counts[bucket] = counts.get(bucket, 0) + 1
            self._loose = []
        return self._counts

    @property
    def count(self) -> int:
        """How many values were added."""
        return sum(self.counts.values())

    def add(self, value_us: int, count: int = 1) -> None:
        """Counts ``value_us`` ``count`` times. Raises ``ValueError`` for a negative value or count."""
        if value_us < 0:
            raise ValueError(f"{value_us} µs is negative; a latency is 0 or more")
        bucket = bisect_right(_LOWS, value_us) - 1
        if count == 1:
            self._loose.append(bucket)
        elif count > 0:
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        elif count:
            raise ValueError(f"{count} is negative; values are only ever added")

    def copy(self) -> Histogram:
        """One of the same counts, which goes its own way."""
        histogram = Histogram(self._counts.copy())
        histogram._loose = self._loose.copy()
        return histogram

    def merge(self, other: Histogram) -> None:
        """Adds all that ``other`` counted."""
        self._loose += other._loose
        counts = self._counts
        for bucket, count in other._counts.items():
            counts[bucket] = counts.get(bucket, 0) + count

    def merge_bytes(self, blob: bytes) -> None:
        """Adds what histograms written by ``to_bytes`` counted. Raises ``HistogramError``; nothing is added then."""
        counts = self._counts
        for ways, added, _ in _read(blob):
            if counts:
                for bucket, count in zip(accumulate(ways), added, strict=True):
                    if count:
                        counts[bucket] = counts.get(bucket, 0) + count
            else:  # the first is the longest, as a rule
                buckets = compress(accumulate(ways), added)
                counts.update(zip(buckets, filter(None, added), strict=True))

    def quantile(self, share: float) -> int | None:
        """The value in microseconds that ``share`` (0 … 1) of the values do not exceed, by nearest rank, within 1 %.

        ``None`` where nothing was counted. Raises ``ValueError`` for a share out of range.
        """
        return self.quantiles([share])[0]

    def quantiles(self, shares: Sequence[float]) -> list[int | None]:
        """As ``quantile`` for each of ``shares``, in one walk over the buckets."""
        counts = self.counts
        buckets = sorted(counts)
        places = _ranked(list(accumulate(map(counts.__getitem__, buckets))), shares)
        return [None if place is None else _MIDDLES[buckets[place]] for place in places]

    def to_bytes(self) -> bytes:
        """Its compact form: equal histograms give equal bytes."""
        if len(self._loose) == 1 and not self._counts:
            return _of_one(self._loose[0])
        return _written(self.counts)

    @classmethod
    def from_bytes(cls, blob: bytes) -> Histogram:
        """The histogram that ``to_bytes`` wrote. Raises ``HistogramError`` for anything else."""
        histogram = cls()
        histogram.merge_bytes(blob)
        return histogram

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.counts == other.counts

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Histogram(count={self.count}, p50={self.quantile(0.5)}, p99={self.quantile(0.99)})"


class Totals:
    """Sums of histograms, with a count for every bucket: to add to them, and to read quantiles from them, makes no dictionary.

    What is moved from one to another must have been added there, sooner or later: then exactly the rest is left, as both are
    whole counts of the same values. What was not added, so that less than nothing would be left, counts nothing.
    """

    __slots__ = ("_begin", "_counts", "_end")

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self._begin, self._end = BUCKETS, 0  # outside of them nothing is counted

    def add(self, blob: bytes, out_of: Totals | None = None) -> None:
        """Adds what histograms written by ``to_bytes`` counted, and takes it away from ``out_of`` where that is given.

        Raises ``HistogramError`` for other bytes.
        """
        here, there = self._counts, None if out_of is None else out_of._counts
        begin, end = self._begin, self._end
        for ways, counts, last in _read(blob):
            if not ways:
                continue
            begin, end = min(begin, ways[0]), max(end, last + 1)
            buckets = zip(accumulate(ways), counts, strict=True)
            if there is None:
                for bucket, count in buckets:
                    here[bucket] += count
            else:
                for bucket, count in buckets:
                    here[bucket] += count
                    there[bucket] -= count
        self._begin, self._end = begin, end

    def quantiles(self, shares: Sequence[float]) -> list[int | None]:
        """As those of ``Histogram``."""
        places = _ranked(list(accumulate(self._left())), shares)
        return [None if place is None else _MIDDLES[self._begin + place] for place in places]

    def histogram(self) -> Histogram:
        """The same counts."""
        return Histogram({bucket: count for bucket, count in enumerate(self._left(), self._begin) if count})

    def _left(self) -> list[int]:
        """The counts from ``_begin`` on. What was only taken away, beyond these, counts nothing anyway."""
        counts = self._counts[self._begin : self._end]
        return [count if count > 0 else 0 for count in counts] if min(counts, default=0) < 0 else counts


def sum_histograms(blobs: Iterable[bytes]) -> Totals:
    """All of ``blobs``, written by ``to_bytes``, as one. Raises ``HistogramError`` for anything else."""
    totals = Totals()
    for blob in blobs:
        totals.add(blob)
    return totals


def sum_moved(parts: Iterable[tuple[_Key, _Key | None, bytes]]) -> dict[_Key, Totals]:
    """The sums of histograms by key; ``parts`` are a key, the key out of which that histogram is moved, and its bytes.

    They may come in any order. Raises ``HistogramError`` for other bytes than those of ``to_bytes``.
    """
    totals: dict[_Key, Totals] = defaultdict(Totals)
    for key, out_of, blob in parts:
        totals[key].add(blob, None if out_of is None else totals[out_of])
    return dict(totals)


def _ranked(sums: Sequence[int], shares: Sequence[float]) -> list[int | None]:
    """Of counts in order, given as their running sums: the place of the one that holds each share, by nearest rank.

    ``None`` where nothing was counted. Raises ``ValueError`` for a share out of range.
    """
    if any(not 0 <= share <= 1 for share in shares):
        raise ValueError(f"{list(shares)} are no shares; a share is a number from 0 to 1")
    if not sums or not sums[-1]:
        return [None] * len(shares)
    return [bisect_right(sums, _rank(share, sums[-1]) - 1) for share in shares]


def _rank(share: float, count: int) -> int:
    """Nearest rank: the smallest whole number at or above ``share · count``, and at least 1."""
    numerator, denominator = _ratio(share)
    return max(1, -(-numerator * count // denominator))


@lru_cache(maxsize=64)
def _ratio(share: float) -> tuple[int, int]:
    """``share`` as it is written, over what: 0.55 is 11 of 20, though its float is a little more."""
    return Fraction(str(share)).as_integer_ratio()


def _written(counted: dict[int, int]) -> bytes:
    ways, counts, last = bytearray(), [], 0
    for bucket in sorted(counted):
        while bucket - last > _LONGEST_WAY:
            ways.append(_LONGEST_WAY)
            counts.append(0)
            last += _LONGEST_WAY
        ways.append(bucket - last)
        counts.append(counted[bucket])
        last = bucket
    width = _width(max(counts, default=0))
    packed = bytes(counts) if width == 1 else _packer(width, len(counts)).pack(*counts)
    return bytes((_VERSION, width, len(ways) & 0xFF, len(ways) >> 8)) + ways + packed


@lru_cache(maxsize=BUCKETS)
def _of_one(bucket: int) -> bytes:
    """The bytes of a histogram of one value: that of every second series of an intake."""
    return _written({bucket: 1})


def _width(largest: int) -> int:
    """How many bytes each count takes."""
    return 1 if largest < 1 << 8 else next(width for width in _COUNTS if largest < 1 << 8 * width)


def _packer(width: int, buckets: int) -> Struct:
    """What packs the counts; a struct of its own, as those of ``struct.pack`` are kept in a small cache only."""
    packer = _packers.get((width, buckets))
    if packer is None:
        packer = _packers[width, buckets] = Struct(f"<{buckets}{_COUNTS[width]}")
    return packer


_packers: dict[tuple[int, int], Struct] = {}  # bounded: 4 widths, and as many buckets as _read lets through


def _read(blob: bytes) -> list[tuple[bytes, Sequence[int], int]]:
    """Of each histogram in ``blob`` the ways from bucket to bucket, the counts, the last bucket. Raises ``HistogramError``."""
    parts: list[tuple[bytes, Sequence[int], int]] = []
    start, end = 0, len(blob)
    while start < end or not parts:
        counts_start, counts_end, width = _extent(blob, start)
        ways = blob[start + _HEADER_BYTES : counts_start]
        last = sum(ways)
        if last >= BUCKETS or ways.find(0, 1) > 0:
            raise HistogramError(f"its buckets must rise and lie below {BUCKETS}")
        if width == 1:  # most are: bytes are numbers already
            parts.append((ways, blob[counts_start:counts_end], last))
        else:
            parts.append((ways, _packer(width, len(ways)).unpack_from(blob, counts_start), last))
        start = counts_end
    return parts


def _extent(blob: bytes, start: int) -> tuple[int, int, int]:
    """Where the counts of the histogram at ``start`` begin and end, and how many bytes each takes."""
    if len(blob) - start < _HEADER_BYTES:
        raise HistogramError(f"a histogram has at least {_HEADER_BYTES} bytes; these are {len(blob) - start}")
    version, width = blob[start], blob[start + 1]
    if version != _VERSION:
        raise HistogramError(f"version {version} of histograms is unknown; this one reads version {_VERSION}")
    if width not in _COUNTS:
        raise HistogramError(f"a count of {width} bytes is unknown; it takes 1, 2, 4 or 8")
    buckets = blob[start + 2] | blob[start + 3] << 8
    counts_start = start + _HEADER_BYTES + buckets
    counts_end = counts_start + buckets * width
    if counts_end > len(blob):
        raise HistogramError(f"{len(blob) - start} bytes can't hold {buckets} buckets with counts of {width} bytes")
    return counts_start, counts_end, width
