"""The command line: what it prints, its exit status, and one JSON object with ``--json``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.cli import main
from engine.cli.options import parse_settings
from engine.cli.output import duration, size
from engine.config import RunConfig
from engine.data.phantoms import write_dataset
from engine.data.readers import read_image
from engine.errors import UserError
from engine.runs.events import StoreReporter
from engine.runs.store import RunStore
from engine.types import EvaluationRow, ModelDifference, Traffic
from export.runtime import load_bundle

TINY = ["--preset", "phantom_cpu_smoke", "--set", "method=fedtinysam", "--set", "student.weights=none"]
TINY += ["--set", "federation.rounds=3", "--set", "data.images_per_site=4"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSFEDMED_STAND_INS", "tests.integration.lifecycle_stages:STAGES")
    monkeypatch.setenv("DSFEDMED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "home"


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    found = main([*arguments, "--json"])
    out = capsys.readouterr().out
    assert found == status, out
    assert out.count("\n") == 1
    return json.loads(out)


def finished_run(home: Path, *, name: str = "a run") -> str:
    store = RunStore(home)
    run_id = store.create_run(RunConfig(name=name, method="fedtinysam")).run_id
    store.update_run(run_id, status="running", attempt=1)
    report = StoreReporter(store, run_id, "evaluation", attempt=1)
    report.evaluation([EvaluationRow("distilled_student", "z", "test", "disc", 4, 0.81, 0.7, 0.9, 0.6, 0.8, 0.6, None)])
    report.evaluation(
        [EvaluationRow("distilled_student", "a", "validation", "disc", 4, 0.5, 0.4, 0.6, 0.4, 0.5, 0.4, 1.0)]
    )
    for site, split in (("z", "test"), ("a", "validation")):
        pair = ("distilled_student", "fedavg_student")
        report.differences([ModelDifference(*pair, site, split, "disc", 4, 3, 0.125, -0.25, 0.5)])
    report.traffic(Traffic("a", "up", "student", 1_500_000, round=1))
    report.flush()
    store.set_status(run_id, "finished")
    store.close()
    return run_id


def test_help_needs_no_heavy_package_and_names_every_command() -> None:
    code = (
        "import sys; from engine.cli import main; main(['--help']);"
        "heavy = {'torch', 'sqlalchemy', 'numpy', 'flwr', 'diffusers', 'onnxruntime'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    commands = ("plan", "run", "resume", "cancel", "extend", "fork", "list", "show", "data", "pretrain", "weights")
    for name in (*commands, "export", "predict", "doctor"):
        assert f"  {name} " in done.stdout


def test_a_plan_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    made = as_json(capsys, "plan", *TINY)
    assert made["config"]["federation"]["rounds"] == 3
    assert {site["role"] for site in made["plan"]["sites"]} == {"source", "test"}
    assert main(["plan", *TINY]) == 0
    text = capsys.readouterr().out
    assert "federated_training" in text and "Student weights go both ways" in text and "minutes" in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["plan"], "cli.no_config"),
        (["plan", "--preset", "a", "--config", "b"], "cli.no_config"),
        (["plan", "--preset", "nothing"], "config.not_found"),
        (["plan", "--config", "/nowhere.toml"], "config.not_found"),
        (["plan", *TINY, "--set", "federation.roundz=3"], "config.unknown_key"),
        (["plan", *TINY, "--set", "federation"], "config.unknown_key"),
        (["plan", *TINY, "--set", "federation.rounds=minus"], "config.invalid"),
        (["run", *TINY, "--data", "/nowhere/at/all"], None),
        (["run", *TINY, "--held-out", "nowhere"], None),
        (["show", "nothing"], "run.unknown"),
        (["show", "last"], "run.unknown"),
        (["resume", "nothing"], "run.unknown"),
        (["cancel", "nothing"], "run.unknown"),
        (["data", "check", "/nowhere"], None),
        (["weights", "fetch", "nothing"], "weights.unknown"),
        (["predict", "nothing", "/nowhere.png"], None),
        (["data", "phantoms", "fundus", "--out", __file__], "cli.file"),
        (["show"], "cli.usage"),
        (["extend", "nothing", "--rounds", "0"], "cli.usage"),
        (["--nonsense"], "cli.usage"),
    ],
)
def test_errors_are_one_json_object_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: str | None
) -> None:
    error = as_json(capsys, *arguments, status=2)["error"]
    assert set(error) == {"code", "what", "why", "fix"} and all(error.values())
    assert code is None or error["code"] == code


def test_a_section_that_is_no_table_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("data = 3\n", encoding="utf-8")
    error = as_json(capsys, "plan", "--config", str(path), "--held-out", "x", status=2)["error"]
    assert error["code"].startswith("config.") and "data" in error["what"]


def test_errors_for_people_say_what_why_and_how_to_mend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "nothing"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "run.unknown" in captured.err and "Why:" in captured.err and "Fix:" in captured.err


def test_a_run_is_followed_to_its_results(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    ended = as_json(capsys, "run", *TINY, "--name", "tiny")
    assert (ended["status"], ended["name"]) == ("finished", "tiny")
    assert [stage["status"] for stage in ended["stages"]] == ["finished"] * 3
    assert ended["evaluation"] and ended["traffic"]["total_bytes"] == 36
    assert json.loads(Path(ended["report"]).read_text())["run_id"] == ended["run_id"]
    assert Path(ended["folder"]).is_relative_to(home)
    longer = as_json(capsys, "extend", "last", "--rounds", "5")
    assert longer["traffic"]["total_bytes"] == 60
    impossible = ["--from", "federated_training", "--set", "data.held_out=nowhere"]
    refused = as_json(capsys, "fork", "last", *impossible, status=2)
    assert refused["error"]["code"] == "data.held_out_unknown"
    child = as_json(capsys, "fork", "last", "--from", "evaluation", "--set", "evaluation.bootstrap_samples=900")
    assert child["parent"] == ended["run_id"] and child["evaluation"][0]["dice"] == 0.9


def test_a_failed_run_has_status_1_and_its_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSFEDMED_STAND_INS", "tests.integration.lifecycle_stages:BROKEN_STAGES")
    assert main(["run", *TINY]) == 1
    captured = capsys.readouterr()
    assert "data.bad" in captured.err and "engine resume" in captured.err
    assert as_json(capsys, "show", "last")["failure"]["code"] == "data.bad"
    assert main(["resume", "last", "--detach"]) == 0
    assert "runs by itself" in capsys.readouterr().out


def test_runs_are_listed_and_shown(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert as_json(capsys, "list")["runs"] == []
    run_id = finished_run(home, name="the first")
    (row,) = as_json(capsys, "list")["runs"]
    assert (row["run_id"], row["name"], row["status"]) == (run_id, "the first", "finished")
    assert main(["list"]) == 0 and run_id in capsys.readouterr().out
    shown = as_json(capsys, "show", "last")
    assert shown["run_id"] == run_id and [row["site"] for row in shown["differences"]] == ["z", "a"]
    assert main(["show", run_id]) == 0
    text = capsys.readouterr().out
    assert "0.810 [0.700, 0.900]" in text and "0.500 [" not in text and "1.5 MB" in text
    assert text.count("+0.125 [-0.250, +0.500]") == 1, "the difference on the unseen site"


def test_cancelling_what_is_over_is_refused(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    run_id = finished_run(home)
    assert as_json(capsys, "cancel", run_id, status=2)["error"]["code"] == "run.not_active"
    assert as_json(capsys, "resume", run_id, status=2)["error"]["code"] == "run.finished"


def test_datasets_are_made_checked_and_previewed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = tmp_path / "data"
    made = as_json(capsys, "data", "phantoms", "polyp", "--out", str(root), "--images", "6", "--px", "64")
    assert made["root"] == str(root)
    checked = as_json(capsys, "data", "check", str(root))
    assert checked["faults"] == [] and set(checked["images"].values()) == {6}
    shown = as_json(capsys, "data", "preview", str(root), "--set", "data.image_px=64")
    assert len(shown["sites"]) == len(checked["images"])
    assert main(["data", "preview", "--preset", "phantom_cpu_smoke"]) == 0
    assert "Brightness" in capsys.readouterr().out
    broken = next(root.rglob("images/*.png"))
    broken.write_bytes(broken.read_bytes()[:50])
    answer = as_json(capsys, "data", "check", str(root), status=2)
    assert broken.name in answer["error"]["what"]
    assert [(fault["site"], Path(fault["file"]).name) for fault in answer["faults"]] == [
        (broken.parent.parent.name, broken.name)
    ]


def test_weights_are_listed_with_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in as_json(capsys, "weights", "list")["weights"]}
    assert rows["sam-vit-b"]["path"] is None and rows["sam-vit-b"]["sha256"]
    assert main(["weights", "list"]) == 0 and "sam-vit-b" in capsys.readouterr().out


def test_the_doctor_looks_at_everything(capsys: pytest.CaptureFixture[str]) -> None:
    found = {row["name"]: row for row in as_json(capsys, "doctor")["findings"]}
    for name in (
        "python",
        "torch",
        "cores",
        "memory",
        "disk",
        "cuda",
        "onnx providers",
        "chromium",
        "weights tinysam-mini",
    ):
        assert name in found, name
    assert main(["doctor"]) == 0 and "onnx providers" in capsys.readouterr().out


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from engine.config import ModelConfig
    from engine.models.registry import build_model
    from export.package import BundleContent, write_bundle

    config = RunConfig(student=ModelConfig(name="unet", size="mini"))
    model = build_model("unet", size="mini", num_classes=1, image_px=64, seed=0)
    folder = tmp_path_factory.mktemp("bundle") / "unet"
    write_bundle(
        folder,
        model,
        content=BundleContent(
            "unet", "fedavg_student", "polyp", "endoscopy", ("polyp",), config.student, config, (), "r"
        ),
    )
    return folder


def test_images_are_segmented_with_a_bundle(capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(folder / "a.png")
    Image.fromarray(np.full((30, 20), 90, np.uint8)).save(folder / "b.png")
    (folder / "notes.txt").write_text("not an image")
    out = tmp_path / "masks"
    found = as_json(capsys, "predict", str(bundle), str(folder), "--out", str(out), "--overlay")
    assert [Path(row["image"]).name for row in found["predictions"]] == ["a.png", "b.png"]
    with Image.open(found["predictions"][0]["mask"]) as mask:
        assert mask.size == (50, 40)
    assert (out / "b_overlay.png").is_file()
    assert main(["predict", str(bundle), str(folder / "a.png"), "--out", str(out)]) == 0
    assert "a_mask.png" in capsys.readouterr().out
    (folder / "more").mkdir()
    (folder / "a.png").rename(folder / "more" / "b.png")
    for inputs, code in (
        (folder, "predict.same_name"),
        (out / "empty", None),
        (tmp_path / "home", "predict.no_images"),
    ):
        (tmp_path / "home").mkdir(exist_ok=True)
        error = as_json(capsys, "predict", str(bundle), str(inputs), "--out", str(out), status=2)["error"]
        assert code is None or error["code"] == code


def test_masks_whose_names_would_fall_together_are_refused(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    for name in ("case 1.png", "case_1.png"):
        Image.fromarray(np.full((30, 20), 90, np.uint8)).save(tmp_path / name)
    out = tmp_path / "masks"
    error = as_json(capsys, "predict", str(bundle), str(tmp_path), "--out", str(out), status=2)["error"]
    assert error["code"] == "predict.same_name" and "case_1" in error["what"]
    assert not list(out.glob("*.png"))


def test_masks_of_an_earlier_call_are_no_images(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.full((30, 20), 90, np.uint8)).save(tmp_path / "a.png")
    for _ in range(2):
        found = as_json(capsys, "predict", str(bundle), str(tmp_path), "--out", str(tmp_path / "masks"))
        assert [Path(row["image"]).name for row in found["predictions"]] == ["a.png"]


@pytest.mark.parametrize("inputs", ["images", "images/a.png", "."])
def test_masks_may_go_to_the_folder_of_the_images_or_above(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path, inputs: str
) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((30, 20), 90, np.uint8)).save(tmp_path / "images" / "a.png")
    found = as_json(capsys, "predict", str(bundle), str(tmp_path / inputs), "--out", str(tmp_path))
    assert [Path(row["image"]).name for row in found["predictions"]] == ["a.png"]
    assert (tmp_path / "a_mask.png").is_file()


def test_a_bundle_reads_images_as_its_training_did(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    """A volume in Hounsfield units, with air and metal far outside the range that the dataset declares."""
    rng = np.random.default_rng(3)
    volume = rng.normal(40, 60, (24, 20, 3)).astype(np.int16)
    volume[:4], volume[-2:] = -1000, 3000
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "ct.nii.gz")
    told = tmp_path / "bundle"
    shutil.copytree(bundle, told)
    manifest = json.loads((told / "manifest.json").read_text())
    told_of_ct = {"value_range": [-160.0, 240.0], "slice_axis": 0, "modality": "CT"}
    (told / "manifest.json").write_text(json.dumps(manifest | told_of_ct))
    found = as_json(capsys, "predict", str(told), str(tmp_path / "ct.nii.gz"), "--out", str(tmp_path / "masks"))
    (row,) = found["predictions"]
    assert row["slices"] == 24, "cut across the axis that the dataset says"
    image = read_image(tmp_path / "ct.nii.gz", slice_index=12, slice_axis=0, value_range=(-160.0, 240.0))[0]
    expected = load_bundle(told).predict(image).mask_KHW[0]
    stored = np.asarray(nibabel.load(row["mask"]).dataobj)
    assert Path(row["mask"]).name == "ct_mask.nii.gz" and stored.shape == volume.shape
    # axes of this file grow to the right, the front and the head; pictures to the left, the back and the feet
    np.testing.assert_array_equal(stored[23 - 12, ::-1, ::-1].T, expected)


def test_an_argument_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json(capsys, "show", "\udcff", status=2)["error"]["code"] == "cli.encoding"


def test_a_run_without_a_bundle_says_so(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    run_id = finished_run(home)
    error = as_json(capsys, "export", run_id, "--out", str(tmp_path / "b"), status=2)["error"]
    assert error["code"] == "export.no_bundle"
    error = as_json(capsys, "export", run_id, "--out", str(tmp_path / "b"), "--role", "x", status=2)["error"]
    assert error["code"] == "export.no_model"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("federation.rounds=5", 5),
        ("federation.learning_rate=1e-3", 1e-3),
        ("data.held_out=site a", "site a"),
        ("data.sites=['a', 'b']", ["a", "b"]),
        ("data.held_out=none", None),
        ("distillation.mutual=false", False),
        ("name=2024", 2024),
        ('name="2024"', "2024"),
    ],
)
def test_settings_are_toml_or_words(text: str, value: Any) -> None:
    assert list(parse_settings([text]).values()) == [value]


@given(st.text(max_size=30))
def test_no_setting_crashes_the_parser(text: str) -> None:
    try:
        parse_settings([f"data.held_out={text}"])
        parse_settings([text])
    except UserError as error:
        assert error.code == "config.unknown_key"


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (0, "0:00"), (61.4, "1:01"), (3723, "1:02:03")])
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (1e13, "10 TB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_a_folder_dataset_can_be_planned(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = write_dataset("polyp", tmp_path / "data", images_per_site=4, image_px=64)
    made = as_json(capsys, "plan", *TINY[:6], "--data", str(root))
    assert made["config"]["data"]["source"] == "folder"
