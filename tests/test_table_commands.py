"""The commands of the README that fill tables, in a small form: see ``test_commands.py`` for all others."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from test_commands import TABLES, small

from engine.cli import main
from engine.runs.store import RunStore
from tests.patience import RUN_S

FEW_CELLS = {"2": "fedtinysam,dsfedmed", "fig8": "lambda_05,rate_02"}
"""Systems that stand for a table's others, on phantom fundus: all is run, on less."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder and home; the command sets the two variables for good."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSFEDMED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DSFEDMED_MAX_RUNNING", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.mark.parametrize("command", TABLES)
def test_a_table_is_filled_with_what_there_is(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in shlex.split(command)[3:] if word != "--dry"]
    assert main([*words, "--dry"]) == 0
    said = capsys.readouterr().out
    assert "not run" in said and said.startswith("# ")
    assert {path.suffix for path in (folder / "home" / "tables").iterdir()} == {".csv", ".md", ".tex"}


@pytest.mark.slow
@pytest.mark.timeout(4 * RUN_S)
@pytest.mark.parametrize("command", [c for c in TABLES if "--dry" not in c])
def test_a_small_table(command: str, folder: Path) -> None:
    words = shlex.split(command)[3:]
    few = ["--systems", FEW_CELLS[words[1]], "--datasets", "phantom_fundus", "--seeds", "1"]
    assert main([*words, *few, *small()]) == 0
    store = RunStore(folder / "home")
    assert {run.status for run in store.list()} == {"finished"}
    forks = [run.fork_stage for run in store.list() if run.parent is not None]
    assert forks == (["mutual_distillation"] if words[1] == "fig8" else []), "what rows have in common is computed once"
    store.close()
    (table,) = (folder / "home" / "tables").glob("*.md")
    assert "not run" not in table.read_text(encoding="utf-8")
