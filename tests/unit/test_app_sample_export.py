"""The list of a run's samples as CSV."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from app import reranking, sample_csv
from app.asked_samples import Asked, listed, read
from app.reranking import Values
from app.settings import Settings
from app.studio import Studio
from app.tabs import sample_export
from engine.config import parse_config
from engine.errors import UserError
from tests.unit.samples_world import FOUR, LATER, a_run, pool_of


def test_the_list_has_the_runs_figures_and_those_of_the_sliders(tmp_path: Path) -> None:
    pool = pool_of(FOUR, folder=tmp_path)
    config = parse_config({})
    rows = list(csv.DictReader(sample_csv.lines(reranking.rerank(pool, config, Values(1.0, 0.5), epoch=0), epoch=0)))
    assert [row["sample_id"] for row in rows] == ["a/0", "a/1", "b/0", "b/1"]
    first, third = rows[0], rows[2]
    assert (first["epoch"], first["l_gt"], first["l_kl"], first["faithfulness_dice"]) == ("1", "0.1", "0.2", "0.5")
    assert float(first["run_score"]) == pytest.approx(0.05) and float(first["score"]) == -0.1
    assert [row["run_rank"] for row in rows] == ["2", "1", "3", "4"]
    assert [row["rank"] for row in rows] == ["1", "3", "2", "4"]
    assert [row["run_selected"] for row in rows] == ["1", "1", "0", "0"]
    assert [row["selected"] for row in rows] == ["1", "0", "1", "0"]
    assert (third["run_lambda"], third["lambda"], third["selection_rate"]) == ("0.5", "1.0", "0.5")


def test_no_cell_of_the_list_is_a_formula_and_what_is_unknown_is_empty(tmp_path: Path) -> None:
    pool = pool_of(FOUR, folder=tmp_path)
    ids, l_gt, faithfulness = pool.sample_ids.copy(), pool.l_gt.copy(), pool.faithfulness.copy()
    ids[0], ids[1], l_gt[1], faithfulness[1] = '=HYPERLINK("x")', 'a,"b"\n', math.nan, math.nan
    hostile = replace(pool, sample_ids=ids, sites=ids, l_gt=l_gt, faithfulness=faithfulness)
    unscored = replace(hostile, is_scored=pool.rank > 1)
    lines = sample_csv.lines(reranking.as_it_was(unscored, own=Values(0.5, 0.5)), epoch=2)
    rows = list(csv.DictReader("".join(lines).splitlines(keepends=True)))
    assert rows[0]["sample_id"] == rows[0]["site"] == '\'=HYPERLINK("x")' and rows[1]["sample_id"] == 'a,"b"\n'
    assert rows[1]["epoch"] == "3" and {rows[1][key] for key in ("faithfulness_dice", "l_gt", "rank", "lambda")} == {""}
    assert rows[0]["faithfulness_dice"] == "0.5" and len(rows) == 4


def test_lists_are_files_of_their_own_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    lists = sample_export.Lists(tmp_path, kept=2)
    paths = [lists.write("list.csv", (line for line in ("a\n", f"{number}\n"))) for number in range(3)]
    assert [path.exists() for path in paths] == [False, True, True] and not paths[0].parent.exists()
    assert paths[2].read_text() == "a\n2\n" and len({path.parent.name for path in paths}) == 3
    assert paths[2].parent.stat().st_mode & 0o077 == 0


def test_the_list_of_the_tab_is_of_its_epoch_and_values(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    run_id = a_run(studio.store, terms=(FOUR, LATER))
    asked = Asked(run_id, 2, "a", "all", "score", "", 1.0, None)
    lists = sample_export.Lists(studio.scratch.path)
    path, said = sample_export.written(studio, lists, asked)
    assert said == f"{path.name}, 4 samples." and path.name.startswith(f"samples_{run_id}_epoch2_lambda1_rate")
    table = list(csv.DictReader(path.open()))
    assert [row["run_rank"] for row in table] == ["1", "3", "2", "4"] and {row["epoch"] for row in table} == {"2"}
    ranked = read(studio, asked)
    assert ranked.pool.sample_ids[listed(ranked, asked)].tolist() == ["a/0", "a/1"]
    with pytest.raises(UserError):
        sample_export.written(studio, lists, replace(asked, run_id="../../x"))
