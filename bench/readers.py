"""Reads every test file that the format libraries ship, by our reader and by an independent one.

    python -m bench.readers [--all]

Prints for each library how many files were read equal, how many were refused with the right name, and which are wrong;
``--all`` prints every file. The exit status is 1 where any is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from bench import readers_cases, readers_medical, readers_raster
from bench.reading import Outcome

COMPARISONS: tuple[Callable[[], list[Outcome]], ...] = (
    readers_medical.compare,
    readers_raster.compare,
    readers_cases.compare,
)
"""Each gives an outcome a file; the first part of the file's name is its library."""
VERDICTS = ("equal", "refused", "wrong")


def compare() -> list[Outcome]:
    """Return the outcome of every file."""
    return [outcome for comparison in COMPARISONS for outcome in comparison()]


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="print every file")
    everything = parser.parse_args().all
    outcomes = compare()
    for outcome in outcomes:
        if everything or outcome.verdict == "wrong":
            print(f"{outcome.verdict:8} {outcome.file}  {outcome.detail}")
    print(f"{'library':16} {'equal':>8} {'refused':>8} {'wrong':>8}")
    libraries = sorted({outcome.file.split("/")[0] for outcome in outcomes})
    for library in (*libraries, "all"):
        here = [one.verdict for one in outcomes if library in ("all", one.file.split("/")[0])]
        print(f"{library:16} " + " ".join(f"{here.count(verdict):8}" for verdict in VERDICTS))
    return int(any(outcome.verdict == "wrong" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
