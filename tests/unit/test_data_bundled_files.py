"""Files that others ship, read by our reader and by an independent one."""

from __future__ import annotations

from collections import Counter

from bench.readers_raster import compare


def test_the_everyday_formats_are_read_as_independent_readers_read_them() -> None:
    outcomes = compare()
    assert not [outcome for outcome in outcomes if outcome.verdict == "wrong"]
    counts = Counter(outcome.verdict for outcome in outcomes)
    assert counts["equal"] > 250 and counts["refused"] >= 1
