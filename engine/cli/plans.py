"""A plan, and what was fitted to the images before it, for people at a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.cli.output import print_table, size
from engine.cli.privacy import print_privacy

if TYPE_CHECKING:
    from engine.planning import Plan
    from engine.planning.sizes import Size


def print_sizes(sizes: Sequence[Size]) -> None:
    """Print what was fitted to the images, and why."""
    for fitted in sizes:
        print(f"Fitted to the images: {fitted.key} = {fitted.value}: {fitted.because}.")
    if sizes:
        print("Give one with --set to choose it yourself, or all with --as-written.\n")


def print_plan(made: Plan) -> None:
    """Print what a run will take and send."""
    print(f"{made.name}: {made.method} on {made.dataset} ({made.modality}; {', '.join(made.classes)}), {made.machine}")
    print(f"Sites: {made.sites_work}.")
    sites = [(s.site, s.role, s.num_train, s.num_validation, s.num_test) for s in made.sites]
    print()
    print_table(("Site", "Role", "Train", "Validation", "Test"), sites, right=(2, 3, 4))
    print()
    stages = [
        (s.name, s.steps, s.images, f"{s.minutes:.1f}", f"{s.peak_memory_gib:.1f}", s.detail) for s in made.stages
    ]
    print_table(("Stage", "Steps", "Images", "Minutes", "GiB", ""), stages, right=(1, 2, 3, 4))
    print(f"\nIn all about {made.minutes:.1f} minutes, {made.peak_memory_gib:.1f} GiB of memory at the peak (of "
          f"{made.memory_gib:.0f}), {made.disk_gib:.2f} GiB on the disk.")  # fmt: skip
    print()
    rows = [(t.site, t.direction, t.kind, size(t.payload_bytes)) for t in made.traffic]
    print_table(("Site", "Way", "What", "Bytes"), rows, right=(3,))
    print()
    print_privacy(made)
    for sentence in made.leaves_site:
        print(f"- {sentence}")
    for warning in made.warnings:
        print(f"Note: {warning}")
    print(made.estimate)
