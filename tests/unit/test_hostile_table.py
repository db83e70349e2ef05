"""What the bench of hostile sites prints and judges of its cells, with one seed and with several."""

from __future__ import annotations

from typing import Any

from bench.hostile import ATTACKS, attacks_of
from bench.hostile_table import HONEST, WITHOUT, failures, table

ROWS, DEFENCES = (HONEST, "NaN"), ("refuse",)


def cells(alone: float, *found: tuple[float | None, int]) -> dict[str, dict[str, Any]]:
    keys = [f"{row} | {defence}" for row in ROWS for defence in (None, *DEFENCES)]
    about = {key: {"dice": dice, "refused": refused} for key, (dice, refused) in zip(keys, found, strict=True)}
    return {f"{WITHOUT} | None": {"dice": alone, "refused": 0}, **about}


ONE = cells(60.0, (61.0, 0), (60.5, 0), (None, 0), (60.0, 3))
OTHER = cells(50.0, (54.0, 0), (50.5, 1), (20.0, 0), (49.0, 3))


def lines(*seeds: dict[str, dict[str, Any]]) -> list[list[str]]:
    printed = table(seeds, rows=ROWS, defences=DEFENCES, rounds=3).splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in printed]


def test_one_seed_has_its_figures() -> None:
    assert lines(ONE) == [
        ["One of four sends", "no defence", "refuse"],
        [WITHOUT, "60.0"],
        [HONEST, "61.0 (+1.0)", "60.5 (+0.5)"],
        ["NaN", "breaks off", "60.0 (+0.0)*"],
    ]


def test_several_seeds_have_mean_and_spread_of_the_difference_to_their_own_run() -> None:
    """Differences: +1 and +4; +0.5 twice, refused once; one that breaks off and -30; 0 and -1."""
    assert lines(ONE, OTHER) == [
        ["One of four sends", "no defence", "refuse"],
        [WITHOUT, "55.0 [50.0, 60.0]"],
        [HONEST, "57.5 (+2.5 [+1.0, +4.0])", "55.5 (+0.5 [+0.5, +0.5])+"],
        ["NaN", "20.0 (-30.0 [-30.0, -30.0]), 1 break off", "54.5 (-0.5 [-1.0, +0.0])*"],
    ]


def test_a_seed_in_which_a_defence_fails_is_named() -> None:
    how: dict[str, Any] = {"attacks": ("NaN",), "relied_on": DEFENCES}
    assert failures({7: ONE, 8: OTHER}, **how) == [], "a point below is as good"
    low, broken = (
        cells(50.0, (0.0, 0), (0.0, 0), (0.0, 0), (48.9, 0)),
        {**ONE, "NaN | refuse": {"dice": None, "error": "no"}},
    )
    assert failures({7: broken, 8: low}, **how) == [
        "seed 7, NaN | refuse: no",
        "seed 8, NaN | refuse: 48.9 is below 49.0",
    ]


def test_every_attack_can_be_named_in_the_list_of_all() -> None:
    """It is the default: a name with a comma in it would be two."""
    assert attacks_of(",".join(ATTACKS)) == tuple(ATTACKS)
