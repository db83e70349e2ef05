"""A site that has lost its disk says so and begins anew only where that was accepted; copies and changes are told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from engine.cli import main
from engine.config import RunConfig, load_config
from engine.data.phantoms import write_dataset
from engine.errors import UserError
from engine.federation.backends.answered import AnsweredRounds, AnsweringPrograms
from engine.federation.tasks import BEGAN_ANEW, DESCRIBE, TRAIN_GENERATOR, TRAIN_STUDENT, SiteRequest
from engine.site.audit import AuditLog
from engine.site.deployed import DeployedSite
from engine.site.kept_state import accept_new_beginning, check_kept
from engine.site.policy import Decisions
from engine.site.state import SiteState
from engine.stages.evaluation import Evaluation
from engine.stages.federated_training import FederatedTraining
from engine.version import program_version
from tests.unit.deployed_world import Nobody, StandingAlone, rows_of

SITES = ("guided_inset", "portable_yellow", "tower_hd")
LOST = "tower_hd"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset("polyp", tmp_path_factory.mktemp("all") / "set", images_per_site=4, image_px=32)


def config_of(root: Path | None, *, rounds: int, **more: object) -> RunConfig:
    values: dict[str, object] = {
        "method": "fedtinysam", "data.source": "folder", "data.image_px": 32, "data.sites": SITES[1:],
        "data.held_out": SITES[0], "device": "cpu", "threads": 1, "student.weights": None,
        "federation.rounds": rounds, "evaluation.bootstrap_samples": 50,
        "federation.patience": None, "federation.normalisation": "local",
    }  # fmt: skip
    where = {"data.root": str(root)} if root else {"backend": "superlink", "server": "/nowhere"}
    return load_config("phantom_cpu_smoke", overrides={**values, **where, **more})


def state_of(folder: Path, answered: tuple[int, ...]) -> SiteState:
    return SiteState(folder, None, run_id="run-1", answered=answered)  # type: ignore[arg-type]


def test_what_a_site_must_still_have(tmp_path: Path) -> None:
    """That of the newest round answered before; a state of a later one, whose reply was late, is as good."""
    answered = (1, 2, 5)
    for newest, before in ((0, 1), (1, 2), (2, 3), (2, 5), (5, 6), (6, 7), (3, 4)):
        assert check_kept(state_of(tmp_path, answered), newest, site="a", before_round=before) == {}
    for newest, before, expected in ((0, 2, 1), (1, 3, 2), (1, 5, 2), (2, 6, 5), (4, 9, 5)):
        with pytest.raises(UserError, match=f"Site a has no state of the run run-1 after round {expected}") as raised:
            check_kept(state_of(tmp_path, answered), newest, site="a", before_round=before)
        assert raised.value.code == "federation.site_state_lost" and "site begin-anew" in raised.value.fix
    assert check_kept(state_of(tmp_path, ()), 0, site="a", before_round=9) == {}, "a server that says nothing of it"


def missed(folder: Path, answered: tuple[int, ...], *, before_round: int, newest: int = 0) -> None:
    with pytest.raises(UserError) as raised:
        check_kept(state_of(folder, answered), newest, site="a", before_round=before_round)
    assert raised.value.code == "federation.site_state_lost"


def accepts_nothing(folder: Path) -> None:
    with pytest.raises(UserError, match=f"misses no state of the run {folder.name}") as raised:
        accept_new_beginning(folder, by="anna")
    assert raised.value.code == "site.nothing_lost"


def test_a_new_beginning_holds_for_one_loss(tmp_path: Path) -> None:
    missed(tmp_path, (1, 2), before_round=3)
    accept_new_beginning(tmp_path, by="anna")
    began = {BEGAN_ANEW: "anna"}
    assert check_kept(state_of(tmp_path, (1, 2)), 0, site="a", before_round=3) == began
    assert check_kept(state_of(tmp_path, (1, 2)), 0, site="a", before_round=3) == began, "killed on the way"
    assert check_kept(state_of(tmp_path, (1, 2)), 0, site="a", before_round=4) == began, "round 3 went on without it"
    assert check_kept(state_of(tmp_path, (1, 2, 3)), 3, site="a", before_round=4) == {}
    missed(tmp_path, (1, 2, 3), before_round=4)
    accept_new_beginning(tmp_path, by="anna")
    assert check_kept(state_of(tmp_path, (1, 2, 3)), 0, site="a", before_round=4) == began
    for name in ("begins_anew.json", "state_missed.json"):
        (tmp_path / name).write_text("{")
    with pytest.raises(UserError, match=r"begins_anew\.json cannot be read"):
        check_kept(state_of(tmp_path, (1, 2, 3)), 0, site="a", before_round=4)
    with pytest.raises(UserError, match=r"state_missed\.json cannot be read"):
        accept_new_beginning(tmp_path, by="anna")


def test_no_leave_waits_for_a_loss_to_come(tmp_path: Path) -> None:
    folder = tmp_path / "run-1"
    accepts_nothing(folder)
    assert not folder.exists()
    assert check_kept(state_of(folder, (1, 2)), 2, site="a", before_round=3) == {}
    accepts_nothing(folder)
    missed(folder, (1, 2), before_round=3, newest=1)
    assert check_kept(state_of(folder, (1, 2)), 2, site="a", before_round=3) == {}, "brought back"
    accepts_nothing(folder)
    missed(folder, (1, 2), before_round=3, newest=1)
    accept_new_beginning(folder, by="anna")
    accepts_nothing(folder)
    missed(folder, (1, 2, 3), before_round=4)  # one loss, one leave
    (folder / "begins_anew.json").write_text('{"by": "anna", "through": null}')  # as versions of before wrote it
    missed(folder, (1, 2, 3), before_round=4)


def test_the_server_remembers_who_has_answered_which_rounds(tmp_path: Path) -> None:
    path = tmp_path / "sites" / "answered.json"
    record = AnsweredRounds(path)
    for number in (1, 2, 3):
        record.note("a", TRAIN_STUDENT, number)
    record.note("b", TRAIN_STUDENT, 2)
    record.note("b", DESCRIBE, 9)
    record.note("b", TRAIN_GENERATOR, 9)
    assert (AnsweredRounds(path).of("a"), AnsweredRounds(path).of("b"), record.of("c")) == ((1, 2, 3), (2,), ())
    record.note("a", TRAIN_STUDENT, 2)
    assert AnsweredRounds(path).of("a") == (1, 2), "asked again, a site forgets what came after"
    planned = AnsweredRounds(None)
    planned.note("a", TRAIN_STUDENT, 1)
    assert planned.of("a") == ()
    path.write_text("[1")
    with pytest.raises(UserError, match="which says what rounds each site has answered"):
        AnsweredRounds(path)


@pytest.mark.parametrize("told", ["", "{}", "[1, -2]", '["1"]', "[true]", "[" + "1," * 60_000 + "1]"])
def test_a_server_that_tells_of_rounds_that_cannot_be_is_refused(told: str, tmp_path: Path) -> None:
    program = DeployedSite("a", data=tmp_path, folder=tmp_path, say=print)
    run = {"id": "run-1", "program": program_version(), "config": "{}", "answered": told}
    with pytest.raises(UserError, match="was told of rounds that cannot be"):
        program.answer(SiteRequest("a", TRAIN_STUDENT, 3), run=run, listener=Nobody())


def test_a_lost_disk_stops_the_run_until_the_folder_is_back_or_a_new_beginning_is_accepted(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = StandingAlone(monkeypatch, root, tmp_path / "at", sites=SITES)

    def rounds(upto: int, name: str = "run") -> dict[str, np.ndarray]:
        config = config_of(None, rounds=upto)
        context, told = world.context(config, tmp_path / name, hashed="one run, ever more rounds")
        try:
            FederatedTraining().run(context)
        finally:
            warnings.extend(told.lines)
        return load_file(tmp_path / name / "models" / "fedavg_student.safetensors")

    warnings: list[str] = []
    rounds(1)
    kept = tmp_path / "at" / LOST / "runs" / "run"
    shutil.copytree(kept, tmp_path / "copy")
    shutil.copytree(tmp_path / "run", tmp_path / "other" / "run")
    whole = rounds(2)
    for path in (tmp_path / "run", kept):
        shutil.rmtree(path)
    shutil.copytree(tmp_path / "other" / "run", tmp_path / "run")
    world.start(LOST)
    with pytest.raises(UserError, match=f"Site {LOST} has no state of the run run after round 1") as raised:
        rounds(2)
    assert raised.value.code == "federation.site_state_lost"
    shutil.rmtree(kept)
    shutil.copytree(tmp_path / "copy", kept)
    world.start(LOST)
    back = rounds(2)
    assert all(np.array_equal(back[name], whole[name]) for name in whole), "with its folder it is the same run"
    shutil.rmtree(kept)
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(tmp_path / "other" / "run", tmp_path / "run")
    world.start(LOST)
    accepts_nothing(kept)
    with pytest.raises(UserError, match=f"Site {LOST} has no state of the run run after round 1"):
        rounds(2)
    accept_new_beginning(kept, by="anna")
    anew = rounds(2)
    assert any(not np.array_equal(anew[name], whole[name]) for name in whole)
    assert [line for line in warnings if "anew" in line] == [
        f"Round 2: {LOST} has begun its own state anew; 'anna' has accepted it there."
    ]


def test_own_parts_are_missed_where_a_model_is_measured(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with FedBN equals the one in one process; its own parts stay at the sites, and one that is gone is told."""
    world = StandingAlone(monkeypatch, root, tmp_path / "at", sites=SITES)
    found = {}
    for name, config in (("together", config_of(root, rounds=2)), ("apart", config_of(None, rounds=2))):
        context, _ = world.context(config, tmp_path / name)
        FederatedTraining().run(context)
        if name == "apart":
            kept = tmp_path / "at" / LOST / "runs" / "apart"
            files = sorted(kept.glob("own_*"))
            kept.rename(tmp_path / "gone")
            with pytest.raises(UserError, match="no state of the run apart after round 2"):
                Evaluation().run(context)
            shutil.rmtree(kept, ignore_errors=True)
            (tmp_path / "gone").rename(kept)
        Evaluation().run(context)
        models = {path.name: load_file(path) for path in (tmp_path / name / "models").glob("*.safetensors")}
        found[name] = models, rows_of(tmp_path / name)
    one, other = found["together"], found["apart"]
    assert one[1] == other[1] and {row["model"] for row in one[1]} == {"fedavg_student", "personal_student"}
    assert one[0].keys() == other[0].keys()
    for name, arrays in one[0].items():
        assert all(np.array_equal(arrays[key], other[0][name][key]) for key in arrays), name
    assert [path.name for path in files] == ["own_round_000001.safetensors", "own_round_000002.safetensors"]
    own = set(load_file(kept / files[0].name))
    assert own and not own & set(other[0]["personal_student.safetensors"])
    for site in SITES[1:]:
        ours = load_file(tmp_path / "together" / "sites" / site / "own_round_000002.safetensors")
        theirs = load_file(tmp_path / "at" / site / "runs" / "apart" / "own_round_000002.safetensors")
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_the_operator_accepts_it_by_a_command_and_it_is_on_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site.toml").write_text('site = "north"\nserver = "localhost:1"\n')
    kept = tmp_path / "runs" / "run-1"

    def begins_anew(run_id: str) -> int:
        return main(["site", "begin-anew", str(tmp_path), run_id])

    assert begins_anew("run-1") == 2
    assert "No run 'run-1' has asked to take part here; asked have: none." in capsys.readouterr().err
    Decisions(tmp_path).ask("run-1", "{}", kinds=())
    assert begins_anew("run1") == 2
    assert "No run 'run1' has asked to take part here; asked have: run-1." in capsys.readouterr().err
    assert begins_anew("run-1") == 2
    assert "This site misses no state of the run run-1." in capsys.readouterr().err
    assert not (tmp_path / "runs").exists() and not (tmp_path / "audit.jsonl").exists()
    missed(kept, (1, 2), before_round=3)
    assert begins_anew("run-1") == 0
    assert "north: may begin its own state of the run run-1 anew" in capsys.readouterr().out
    about = json.loads((kept / "begins_anew.json").read_text())
    assert about["through"] == 2 and about["by"]
    assert [entry["event"] for entry in AuditLog(tmp_path / "audit.jsonl").entries()] == ["begins anew"]
    assert begins_anew("../run") == 2


def test_two_programs_in_one_sites_name_are_told_and_one_that_is_started_again_is_not() -> None:
    programs = AnsweringPrograms()
    for site, program in (("a", "1"), ("a", "1"), ("b", "9"), ("a", "2"), ("a", "2"), ("a", "3")):
        programs.note(site, program)
    with pytest.raises(UserError, match="Two programs answer in the name of a by turns") as raised:
        programs.note("a", "2")
    assert raised.value.code == "federation.site_twice"
    programs.note("b", "9")


def test_images_that_change_while_a_run_goes_are_told_at_the_site(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program reads them anew when it is started again; a plan, which is no run, notes nothing."""
    world = StandingAlone(monkeypatch, root, tmp_path / "at", sites=SITES)
    images = tmp_path / "at" / LOST / "images" / LOST
    config = config_of(None, rounds=1)
    context, _ = world.context(config, tmp_path / "run")
    FederatedTraining().run(context)
    kept = tmp_path / "at" / LOST / "runs" / "run" / "images.json"
    assert kept.is_file() and not (tmp_path / "at" / LOST / "runs" / "description" / "images.json").exists()
    first = sorted((images / "images").iterdir())[0]
    for path in (first, images / "masks" / first.name):
        path.rename(path.with_name(f"another{path.suffix}"))
    for table in images.glob("meta.csv"):
        table.write_text(table.read_text().replace(first.name, f"another{first.suffix}"))
    world.start(LOST)
    with pytest.raises(UserError, match=f"The images of {LOST} are not those that this run began with") as raised:
        Evaluation().run(context)
    assert raised.value.code == "run.data_changed"
