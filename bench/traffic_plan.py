"""What a site sends and is sent in DSFedMed with each way of writing the student: a plan, nothing is trained.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.cli.options import edit_config
from engine.config import load_config, parse_config
from engine.planning.only_costs import plan_costs

MIB = 2**20
PUBLISHED_MIB = 8920
"""Of DSFedMed for one site over 100 rounds (its paper's efficiency table)."""
GOAL_MIB = 900
MEASURED = "evaluated"
"""Kind of what is sent for the results table alone."""
INT8 = ("int8", "zstd")
TOPK_INT8 = ("topk", *INT8)


@dataclass(frozen=True)
class Arm:
    """One way of writing messages: steps up, steps down, and topk's share."""

    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    share: float = 0.1

    @property
    def values(self) -> dict[str, Any]:
        """Its keys of ``[federation]``."""
        return {"codec": list(self.up), "codec_down": list(self.down), "topk_share": self.share}


ARMS: dict[str, Arm] = {
    "plain": Arm(),
    "zstd": Arm(("zstd",), ("zstd",)),
    "fp16": Arm(("fp16",), ("fp16",)),
    "int8": Arm(("int8",), ("int8",)),
    "int8_zstd": Arm(INT8, INT8),
    "int8_up": Arm(INT8, ()),
    "topk25_int8": Arm(TOPK_INT8, TOPK_INT8, 0.25),
    "topk10_int8": Arm(TOPK_INT8, TOPK_INT8, 0.1),
    "topk10_fp16": Arm(("topk", "fp16", "zstd"), ("topk", "fp16", "zstd"), 0.1),
    "topk1_int8": Arm(TOPK_INT8, TOPK_INT8, 0.01),
}


def print_dry(preset: str, settings: Sequence[str] | None) -> None:
    """Print what one site sends and is sent in DSFedMed at a preset's scale, by kind, with each arm."""
    values = load_config(preset).model_dump(mode="json")
    print(f"\n{preset}: MiB of one site over {values['federation']['rounds']} rounds, planned (at the most with zstd)")
    print(f"the paper, to train: {PUBLISHED_MIB:,}; the goal, reached where there is a star: {GOAL_MIB}")
    kinds = ("student", "generator", "distilled", "masks")
    print(f"{'arm':<12} {'generator':<16}{''.join(f'{kind:>11}' for kind in kinds)}{'to train':>11}{'to measure':>11}")
    for generator in ("controlnet", "controlnet_lora"):
        for name, arm in ARMS.items():
            changed = {**values, "federation": {**values["federation"], **arm.values}}
            changed["generator"] = {**values["generator"], "kind": generator}
            found, _ = plan_costs(edit_config(parse_config(changed), settings))
            site = next(site.site for site in found.sites if site.role == "source")
            sums: dict[str, int] = {}
            for row in (row for row in found.traffic if row.site == site):
                sums[row.kind] = sums.get(row.kind, 0) + row.payload_bytes
            to_train = sum(count for sort, count in sums.items() if sort != MEASURED)
            columns = [*(sums.get(column, 0) for column in kinds), to_train, sums.get(MEASURED, 0)]
            reached = " *" if to_train <= GOAL_MIB * MIB else ""
            print(f"{name:<12} {generator:<16}{''.join(f'{count / MIB:11,.1f}' for count in columns)}{reached}")
