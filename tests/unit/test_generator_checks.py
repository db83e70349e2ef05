"""What page, report and a site's command say of measured generators."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import generator_checks, text_checks
from engine.cli import app as cli
from engine.errors import UserError
from engine.federation import release as names
from engine.runs.generator_checks import CHECKS_FILE, read_checks
from engine.site.audit import AuditLog
from engine.site.consent import AUDIT_FILE

FIGURES = {
    names.WITHHELD: 1.0, names.MEMBERS: 8.0, names.HELD_OUT: 6.0, names.AUC: 0.984, names.AUC_LOW: 0.9,
    names.AUC_HIGH: 1.0, names.COPIES: 6.0, names.RATIO: 0.868, names.FAITHFULNESS: 0.25, names.FAITHFULNESS_REAL: 0.75,
    names.FRECHET: 2.125, names.KERNEL: 0.0654, names.FLD: -3.04, names.LIMIT_AUC: 0.9,
}  # fmt: skip
CHECKS = {
    "south": {"state": "sent", "reason": "", "figures": {names.WITHHELD: 0.0, names.AUC: 0.5}},
    "north": {"state": "withheld", "reason": "it tells <b>", "figures": FIGURES},
}


def test_each_site_has_a_line_in_the_order_of_the_columns() -> None:
    north, south = generator_checks.rows(CHECKS)
    assert north == ["north", "withheld", "0.98 (0.90 to 1.00)", "6", "0.87", "0.25 (0.75)", "2.12", "0.065", "-3.0",
                     "8 / 6"]  # fmt: skip
    assert south[:3] == ["south", "sent", "0.50"] and len(south) == len(north) == len(text_checks.COLUMNS)


def test_the_table_says_why_and_escapes_what_it_is_told() -> None:
    shown = generator_checks.table(CHECKS)
    assert "north withheld its generator: it tells &lt;b&gt;" in shown and "south withheld" not in shown
    assert generator_checks.table({}) == ""


def test_checks_of_a_run_are_read_back_or_named_where_damaged(tmp_path: Path) -> None:
    assert read_checks(tmp_path) == {}
    (tmp_path / CHECKS_FILE).parent.mkdir()
    (tmp_path / CHECKS_FILE).write_text(json.dumps(CHECKS))
    assert read_checks(tmp_path) == CHECKS
    (tmp_path / CHECKS_FILE).write_text("{")
    with pytest.raises(UserError) as caught:
        read_checks(tmp_path)
    assert caught.value.code == "stage.output_damaged"


def test_a_sites_operator_sees_figures_and_where_the_pairs_lie(tmp_path: Path) -> None:
    run = CliRunner().invoke
    (tmp_path / "site.toml").write_text('site = "north"\nserver = "localhost:1"\n')
    AuditLog(tmp_path / AUDIT_FILE).append("asked", run="261126-a")
    assert "No generator of north was measured." in run(cli, ["site", "checks", str(tmp_path)]).output
    folder = tmp_path / "runs" / "261126-a" / "generator_check"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"site": "north", "figures": FIGURES, "wall_s": 1.0}))
    (folder / "copy_00003.png").write_bytes(b"")
    (found,) = json.loads(run(cli, ["site", "checks", str(tmp_path), "--json"]).output)["checks"]
    assert found == {"run": "261126-a", "state": "withheld", "figures": FIGURES, "pairs": str(folder)}
    said = run(cli, ["site", "checks", str(tmp_path)]).output
    assert "261126-a" in said and "withheld" in said and "0.98" in said
    for damaged in ("{", "[]", '{"figures": 3}', '{"figures": {}}'):
        (folder / "report.json").write_text(damaged)
        assert "report cannot be read" in run(cli, ["site", "checks", str(tmp_path)]).output
