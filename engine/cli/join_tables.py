"""Tables of a join: the student's Dice at every site before and after, minutes and bytes against retraining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.cli.output import print_table, size
from engine.errors import UserError
from engine.methods import catalogue
from engine.runs.join_results import Retraining, join_results

if TYPE_CHECKING:
    from engine.runs.store import RunStore


def print_join(store: RunStore, run_id: str) -> None:
    """Print what a join has brought and taken; nothing for other runs, or before it has measured anything."""
    try:
        found = join_results(store, run_id)
    except UserError as error:  # the rest of what is known of the run has been printed
        print(f"\n{error.what}")
        return
    if found is None or not found.dice:
        return
    print(f"\n{', '.join(found.sites)} joined the run {found.continued}. The student's Dice, on images that trained "
          "nothing:\n")  # fmt: skip
    rows = [
        (row.site, "joined" if row.joined else "", row.split, row.num_images, f"{row.before:.3f}", f"{row.after:.3f}",
         f"{row.after - row.before:+.3f}")
        for row in found.dice
    ]  # fmt: skip
    print_table(("Site", "", "Images of", "Images", "Before", "After", "Change"), rows, right=(3, 4, 5, 6))
    print(f"\nThe join took {found.minutes:.1f} minutes and {size(found.payload_bytes)} over the sites' borders.")
    print_retraining(found.retraining)


def print_retraining(retraining: Sequence[Retraining]) -> None:
    """Print what training all sites anew takes, measured or planned."""
    print("Training all sites anew:\n")
    rows = []
    for one in retraining:
        planned = f"not known: {one.why}" if one.why else "planned"
        minutes = "-" if one.minutes is None else f"{one.minutes:.1f}"
        payload = "-" if one.payload_bytes is None else size(one.payload_bytes)
        source = f"measured in {one.run_id}" if one.run_id else planned
        rows.append((catalogue.method_title(one.method), minutes, payload, source))
    print_table(("Method", "Minutes", "Bytes", ""), rows, right=(1, 2))
