"""Which models are offered first, and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest

from app.model_offers import Offer, Score, best_first, broken, facts, gone, kept, label, score_of


def row(split: str, site: str, name: str, dice: float, images: int) -> dict[str, Any]:
    return {
        "split": split, "site": site, "class_name": name, "dice": dice, "dice_low": dice - 0.1, "dice_high": dice + 0.1,
        "num_images": images,
    }  # fmt: skip


def test_the_unseen_site_counts_and_of_several_classes_their_mean() -> None:
    rows = [row("validation", "a", "mean", 0.9, 5), row("test", "b", "disc", 0.8, 7), row("test", "b", "mean", 0.7, 7)]
    assert score_of(rows) == Score(0.7, pytest.approx(0.6), pytest.approx(0.8), "b", 7, is_unseen=True)


def test_several_sites_have_a_mean_over_images_and_no_interval() -> None:
    found = score_of([row("validation", "a", "cup", 0.5, 10), row("validation", "b", "cup", 0.8, 20)])
    assert found == Score(pytest.approx(0.7), None, None, "2 sites", 30, is_unseen=False)
    assert score_of([]) is None


def offered(key: str, score: Score | None, *, tryout: bool = False) -> Offer:
    return Offer(key, key, "run r", "CT", ("liver",), "2026-11-26", score, tryout)


def test_the_best_on_unseen_images_comes_first_and_try_outs_last() -> None:
    def unseen(dice: float) -> Score:
        return Score(dice, None, None, "s", 5, is_unseen=True)

    offers = [
        broken("broken", "x", origin="shipped"),
        offered("drawn", unseen(0.99), tryout=True),
        offered("unmeasured", None),
        offered("own sites", Score(0.95, None, None, "s", 5, is_unseen=False)),
        offered("poor", unseen(0.099)),
        offered("best", unseen(0.85)),
    ]
    assert [found.key for found in best_first(offers)] == [
        "best", "poor", "own sites", "unmeasured", "drawn", "broken",
    ]  # fmt: skip


def test_words_say_where_a_figure_comes_from() -> None:
    score = Score(0.8489, 0.8366, 0.8615, "fluo", 90, is_unseen=True)
    assert label(offered("nuclei", score)) == "nuclei · liver · Dice 0.85 unseen · run r"
    assert label(offered("nuclei", None, tryout=True)) == "Try-out: nuclei · liver · not measured · run r"
    assert "0.849 [0.837, 0.862], 90 images of fluo, which its training never saw" in facts(offered("nuclei", score))
    assert "<b>" not in facts(Offer("k", "n", "o", "<b>", ("c",), "d", None, False))


@pytest.mark.parametrize(
    ("keys", "chosen", "wanted", "is_first", "shown", "missing"),
    [
        (["best", "other"], None, None, True, "best", None),
        (["best", "other"], None, "other", True, "other", None),
        (["best", "other"], "other", None, False, "other", None),
        (["best"], "other", None, False, None, "other"),  # deleted while it was shown: no other one takes its place
        (["best"], None, "other", True, None, "other"),  # an address of another store
        (["best", "new"], None, None, False, None, None),  # nobody has chosen since
        ([], None, None, True, None, None),
        ([], "other", None, False, None, "other"),
    ],
)
def test_no_model_is_followed_by_one_that_nobody_has_chosen(
    keys: list[str], chosen: str | None, wanted: str | None, is_first: bool, shown: str | None, missing: str | None
) -> None:
    assert kept(keys, chosen=chosen, wanted=wanted, is_first=is_first) == (shown, missing)


def test_a_model_that_is_gone_is_named() -> None:
    assert gone("run/abc123/bundle", is_address=False).startswith("The model of run abc123 is not there any more")
    assert gone("shipped/nuclei_cpu", is_address=True).startswith("The address names the model nuclei_cpu, which is")
    assert "names the model x, which" in gone("x", is_address=True)
