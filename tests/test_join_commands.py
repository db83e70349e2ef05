"""The README's commands that let a hospital join are executed here, on phantoms in folders and a run of all stages."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from test_commands import JOINING, small
from test_documents import parse

from engine.cli import main
from engine.data.phantoms import write_dataset
from engine.runs.store import RunStore
from tests.patience import RUN_S


def test_both_commands_are_such_that_the_command_line_takes() -> None:
    dry, whole = JOINING
    assert parse(shlex.split(dry)[3:]).params["dry"] and not parse(shlex.split(whole)[3:]).params["dry"]


@pytest.mark.slow
@pytest.mark.timeout(2 * RUN_S)
def test_a_hospital_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DSFEDMED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    root = write_dataset("polyp", tmp_path / "hospitals", images_per_site=4, image_px=64)
    new, *_, unseen = sorted(path for path in root.iterdir() if path.is_dir())
    new.rename(tmp_path / "NEW")
    data = ["--data", str(root), "--held-out", unseen.name]
    assert main(["run", "--preset", "polyp_cpu", *data, *small()]) == 0, capsys.readouterr().err
    (tmp_path / "NEW").rename(root / "NEW")
    capsys.readouterr()
    dry, whole = JOINING
    assert main(shlex.split(dry)[3:]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "joined_generator_training" in said and "FedSAM" in said and "planned" in said
    assert main(shlex.split(whole)[3:]) == 0, capsys.readouterr().err
    assert "NEW joined the run" in capsys.readouterr().out
    store = RunStore(tmp_path / "home")
    after, before = store.list()
    assert after.parent == before.run_id and after.status == before.status == "finished"
    store.close()
