"""Files that others ship, read by our reader and by an independent one."""

from __future__ import annotations

from collections import Counter

import pytest

from bench import readers_cases
from bench.readers_raster import compare


def test_the_everyday_formats_are_read_as_independent_readers_read_them() -> None:
    outcomes = compare()
    assert not [outcome for outcome in outcomes if outcome.verdict == "wrong"]
    counts = Counter(outcome.verdict for outcome in outcomes)
    assert counts["equal"] > 250 and counts["refused"] >= 1


@pytest.mark.skipif(not readers_cases.CASES.is_dir(), reason="these files are not beside this clone")
def test_the_files_of_public_bug_reports_have_the_values_that_their_reports_call_right() -> None:
    outcomes = readers_cases.compare()
    assert not [outcome for outcome in outcomes if outcome.verdict == "wrong"]
    assert len(outcomes) > 50
