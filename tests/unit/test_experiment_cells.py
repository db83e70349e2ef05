"""The shipped experiments and what they run; the traffic of the paper's models."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import UserError
from engine.experiments import cells as cells_of
from engine.experiments.paper_traffic import TOLERANCE, paper_traffic
from engine.experiments.results import IMAGES_FILE
from engine.experiments.spec import FOLDER, experiment_path, load_experiment, load_published, tables
from engine.experiments.tables import chosen
from engine.methods import catalogue
from engine.planning.costs import MODELS
from engine.runs.identity import stage_hash

TABLES = ("2", "3", "4", "5", "6", "fig7", "fig8", "gain", "pfedsam", "samfed")


def test_the_tables_are_there() -> None:
    assert set(TABLES) <= set(tables())
    assert experiment_path("2") == FOLDER / "table2.toml" and experiment_path("fig7") == FOLDER / "fig7.toml"
    with pytest.raises(UserError, match=r"There is no table '17'.*fig7"):
        load_experiment("17")


@pytest.mark.parametrize("which", TABLES)
@pytest.mark.parametrize("scale", ["mini", "paper"])
def test_every_cell_can_be_configured_or_is_named_as_missing(which: str, scale: cells_of.Scale) -> None:
    cells = cells_of.make_cells(load_experiment(which), scale)
    assert [str(cell.fault) for cell in cells if cell.fault is not None] == []
    for cell in cells:
        assert (cell.config is None) == bool(cell.missing)
        if cell.config is not None:
            assert cell.model in [model.name for model in catalogue.method(cell.system.method).models]
            assert cell.config.seed == cell.seed and cell.config.method == cell.system.method


@pytest.mark.parametrize("which", [which for which in TABLES if load_published(which)])
def test_published_figures_stand_beside_a_row_and_a_column(which: str) -> None:
    experiment, published = load_experiment(which), load_published(which)
    columns = {column.title for d in experiment.at("paper").datasets for column in d.all_columns}
    beside = {column.published for d in experiment.at("mini").datasets for column in d.all_columns}
    for system, column, measure in published:
        assert system in [row.name for row in experiment.systems] and measure in experiment.measures
        assert column in columns | {"All"}, "the ablation's times are of images that the paper does not say"
    assert beside & {column for _, column, _ in published}


def test_some_published_figures() -> None:
    """One a table, against methods' notes of the paper; the source goes with each."""
    two, three = load_published("2"), load_published("3")
    assert two["dsfedmed", "OC", "dice"] == (0.797, "arXiv 2601.16073, segmentation results")
    assert two["fedunet", "Prostate", "iou"][0] == 0.490 and len(two) == 7 * 6 * 2
    assert three["fedsam", "Prostate", "traffic_client_mib"][0] == 71538
    assert load_published("4")["plain", "CHAOS", "dice"][0] == 0.893
    assert load_published("5")["msa_tinysam", "OC", "dice"][0] == 0.795
    assert load_published("6")["controlnet", "Prostate", "fid"][0] == 62.77
    assert load_published("fig8") == {}


def test_the_traffic_of_the_papers_models_is_the_published_one() -> None:
    published = {system: value for (system, _, name), (value, _) in load_published("3").items()
                 if name == "traffic_client_mib"}  # fmt: skip
    rows = {row.system: row for row in paper_traffic()}
    assert set(rows) == set(published)
    for system in ("fedsam", "fedmsa", "fedunet", "fedtinysam"):
        explained = rows[system].explained_mib
        assert explained is not None and abs(explained / published[system] - 1) < TOLERANCE == 0.01
    # 36 x 295,872 parameters of adapters, 4,058,340 of the decoder, 6,220 of the prompt encoder; float32, 100 x 2.
    assert rows["fedmsa"].explained_mib == pytest.approx((36 * 295_872 + 4_058_340 + 6_220) * 4 * 200 / 2**20)
    # What this engine's own model of adapters trains, of which FedMSA's rounds send nothing else.
    assert rows["fedmsa"].ours_mib == pytest.approx((MODELS["msa", "vit_b"].trained or 0) * 4 * 200 / 2**20)
    assert rows["fedtinysam"].explained_mib == pytest.approx(38.68 * 200, rel=1e-4)
    assert rows["fedunet"].ours_mib == pytest.approx(12_286_232 * 200 / 2**20) and "not ours" in rows["fedunet"].note
    for system in ("fednnunet", "dsfedmed"):
        assert rows[system].explained_mib is None and "not explained" in rows[system].note


def test_what_ablations_begin_with_is_one_and_the_same() -> None:
    """All rows of table 4, and of figure 8, have equal hashes up to the stage that their key changes."""
    for which in ("4", "fig8"):
        cells = cells_of.make_cells(load_experiment(which), "mini", seeds=1)
        of_fundus = [cell.config for cell in cells if cell.dataset.name == "phantom_fundus"]
        names = catalogue.method("dsfedmed").stage_names
        for name in names:
            hashes = {stage_hash(config, names, name) for config in of_fundus if config is not None}
            before = names.index(name) < names.index("mutual_distillation")
            assert (len(hashes) == 1) == before


def test_the_gain_is_of_runs_of_tables_2_and_4() -> None:
    of = {which: cells_of.make_cells(load_experiment(which), "mini") for which in ("2", "4", "gain")}
    keys = {which: {cell.key for cell in cells} for which, cells in of.items()}
    ours = ("mutual", "gated", "fedavg_styled", "mixed", "styled")
    mine = {name: {cell.key for cell in of["gain"] if cell.system.name == name} for name in ours}
    assert keys["gain"].difference(*mine.values()) < keys["2"]
    assert mine["mutual"] < keys["4"] and not mine["gated"] & (keys["2"] | keys["4"])


def test_systems_that_are_models_of_one_run_share_it() -> None:
    cells = cells_of.make_cells(load_experiment("fig7"), "mini", seeds=1)
    assert len(cells) == 4 * len(cells_of.distinct(cells))


def test_seeds_go_on_and_settings_win(tmp_path: Path) -> None:
    experiment = chosen(load_experiment("smoke"), "mini", systems="fast", datasets=None)
    assert experiment.reference is None, "the system that others are compared with was left out"
    settings = {"federation.rounds": 7, "federation.learning_rate": 0.5}
    cells = cells_of.make_cells(experiment, "mini", seeds=4, settings=settings)
    assert [cell.seed for cell in cells] == [1337, 1338, 1339, 1340]
    assert {cell.config.federation.rounds for cell in cells if cell.config} == {7}
    assert {cell.config.federation.learning_rate for cell in cells if cell.config} == {0.5}
    (real,) = cells_of.make_cells(
        chosen(load_experiment("4"), "mini", systems="plain", datasets="polypgen"), "mini", seeds=1, data=tmp_path
    )
    assert real.config is not None and real.config.data.root == tmp_path / "polypgen"
    with pytest.raises(UserError, match="has no nobody"):
        chosen(experiment, "mini", systems="nobody", datasets=None)


def test_what_is_wrong_in_a_file_is_named(tmp_path: Path) -> None:
    text = (FOLDER / "smoke.toml").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    for old, new, said in (
        ('"iou"', '"beauty"', "beauty"),
        ('reference = "fedtinysam"', 'reference = "x"', "none of the systems"),
        ('name = "fast"', 'name = "fedtinysam"', "two systems have one name"),
        ('title = "Two', "title = Two", "mine.toml"),
    ):
        path.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(UserError, match=said):
            load_experiment(str(path))
    path.write_text(text.replace('"federation.rounds"', '"federation.runds"'), encoding="utf-8")
    cells = cells_of.make_cells(load_experiment(str(path)), "mini")
    assert "federation.runds" in str(cells[0].fault) and cells[-1].missing
    with pytest.raises(UserError, match=r"no part \[paper\]"):
        load_experiment("smoke").at("paper")


def test_every_site_of_a_dataset_is_held_out_once(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    text = (FOLDER / "smoke.toml").read_text(encoding="utf-8")
    path.write_text(text.replace('held_out = ["guided_inset"]', 'held_out = "all"'), encoding="utf-8")
    experiment = cells_of.resolved(load_experiment(str(path)), "mini")
    sites = {cell.held_out for cell in cells_of.make_cells(experiment, "mini", seeds=1)}
    assert sites == {"guided_inset", "scope_octagon", "tower_hd"}


def test_where_the_figures_of_images_lie() -> None:
    from engine.stages import evaluation

    assert evaluation.IMAGES_FILE == IMAGES_FILE
