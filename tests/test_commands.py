"""Every command that README, CONTRIBUTING, cards, Makefile, Dockerfile, presets and benches give is executed here.

In a folder of its own with small images and a home of its own. What takes minutes at any size is executed by the tests
marked slow and parsed by the others. A command of a kind that no test knows turns
``test_every_command_has_a_test`` red.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import documents
import numpy as np
import pytest
import tifffile
from documents import ROOT
from PIL import Image
from test_documents import parse

from engine.cli import main
from engine.data.phantoms import TASKS, render, write_dataset
from engine.models.assets import find_asset
from engine.pretraining import jobs, segmenters, settings
from engine.runs.store import RunStore
from tests.patience import RUN_S, wait
from tests.unit.public_downloads import polyp_downloads

SMALL = (
    "data.image_px=64", "data.images_per_site=4", "federation.rounds=1", "generator.steps=1", "generator.image_px=64",
    "generation.max_masks_per_site=1", "generation.sampler_steps=1", "foundation.epochs=1", "distillation.epochs=1",
    "evaluation.bootstrap_samples=20", "precision=fp32", "threads=1",
)  # fmt: skip
"""Makes a run of any preset as small as it can be; the stages, models and weights stay its own."""
LIGHT = "tests.integration.lifecycle_stages:STAGES"
"""Three stages that take no time, for what is said about runs rather than by them."""
ELSEWHERE = {
    "pip install -r requirements-ray.txt": "needs a package index; `make test` installs the same file",
    "nginx -p FEDERATION/server": "runs until it is stopped; tests/deployment starts it with this configuration",
    "docker": "needs a container engine; what it runs in the container is executed here",
    "python -m bench.tinysam_parity --official": "needs a clone of the official code",
    "python -m app.mcp_server": "an assistant starts it: so does tests/contract/test_mcp.py, with this command",
    "python -m app.users": "asks for a password; its options are given one in the test below",
    "python -m tests.unit.test_federation_golden": "writes the curve anew that its own tests hold",
    "python -m tests.unit.test_sharing": "writes the table anew that its own tests hold",
    "python -m engine weights fetch": "needs a network; parsed here, and fetched locally in test_models_downloads",
}
SMALL_BENCHES = {
    "bench.app": "--quick",
    "bench.attack": "--told-within 60",
    "bench.faults": "--kills 3 --in-process 1 --policy skip --folder faults",
    "bench.federation": "--quick --folder federation_costs --sites 4 8 --asked 4 --rounds 1 2",
    "bench.foreign": "--data . --images 40",
    "bench.gain": "--tasks phantom_fundus --seeds 1 --folder cells "
    + " ".join(f"--set {text}" for text in (*SMALL, "federation.patience=1")),
    "bench.generator_checks": "--kinds pix2pix --folder checks "
    + " ".join(f"--set {text}" for text in (*SMALL, "data.images_per_site=8", "data.validation_fraction=0.5")),
    "bench.golden_curves": "",
    "bench.hostile": "--quick --folder hostile",
    "bench.join": "--home joins " + " ".join(f"--set {text}" for text in SMALL),
    "bench.model_speed": "--threads 1 --batch 1 --repeats 1",
    "bench.paper_scale": "--stages evaluation",
    "bench.parts": "--data .",
    "bench.parity": "--kills 1",
    "bench.privacy": "--quick --folder privacy " + " ".join(f"--set {text}" for text in SMALL),
    "bench.readers": "",
    "bench.scoring": "--tasks phantom_nuclei --folder scores --images 4 --epochs 2",
    "bench.serving": "--sides 64 --threads 1 --repeats 1",
    "bench.tinysam_parity": "",
    "bench.traffic": "--presets phantom_cpu_smoke --arms plain,topk10_int8 --seeds 1,2 --rounds 2 --folder traffic "
    + " ".join(f"--set {text}" for text in SMALL),
    "bench.unet": "--presets phantom_cpu_demo --seeds 1,2 --folder cells --set evaluation.mask_px=32 "
    + " ".join(f"--set {text}" for text in SMALL),
}
"""The options that make each bench small: it runs whole, on less."""
ALL = [command.text.removeprefix(".venv/bin/") for command in documents.documented()]
COMMANDS = list(dict.fromkeys(ALL))
ENGINE = [command for command in COMMANDS if command.startswith("python -m engine ")]


def engine_commands(*names: str) -> list[str]:
    return [command for command in ENGINE if command.split()[3] in names]


@dataclass(frozen=True)
class World:
    """A folder with what the commands name, and what stands for their placeholders."""

    folder: Path
    home: Path
    placeholders: dict[str, str]

    def words(self, command: str) -> list[str]:
        """Return the words after ``python -m engine``, each placeholder replaced: images by such as the model knows."""
        words = shlex.split(command)[3:]
        known = self.placeholders | ({"IMAGE": "colon.png"} if words[:2] == ["predict", "last"] else {})
        return [known.get(word, word) for word in words]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give a current folder with three datasets, an image and an empty home, which the commands find by themselves."""
    folder = tmp_path_factory.mktemp("commands")
    sites = {"hospitals": "C6_alexandria", "polypgen": "C6_alexandria", "nuclei_dsb2018": "fluo_696x520"}
    for name, held_out in sites.items():
        root = write_dataset("nuclei" if "nuclei" in name else "polyp", folder / name, images_per_site=4, image_px=64)
        first, *_, fourth, fifth = sorted(path for path in root.iterdir() if path.is_dir())
        first.rename(root / held_out)
        shutil.rmtree(fourth)
        shutil.rmtree(fifth)
    nuclei = render("nuclei", site="dapi_20x", index=0, image_px=64).image
    Image.fromarray(nuclei).save(folder / "picture.png")
    tifffile.imwrite(folder / "stack.tif", np.stack([nuclei] * 3), photometric="rgb")
    shutil.copy(min((folder / "hospitals").rglob("images/*.png")), folder / "colon.png")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setenv("DSFEDMED_HOME", str(folder / "studio_home"))
    patch.setenv("OMP_NUM_THREADS", "1")
    bundle = str(ROOT / "assets" / "models" / "nuclei_cpu")
    downloads = str(polyp_downloads(folder / "downloads"))
    names = {"<root>": "hospitals", "SITE": "C6_alexandria", "IMAGE": "picture.png", "FOLDER": bundle}
    names["VOLUME"] = "stack.tif"
    names["DOWNLOADS"] = downloads
    yield World(folder, folder / "studio_home", names)
    patch.undo()


@pytest.fixture(scope="module")
def finished(world: World) -> World:
    """Give the world with a run of all stages in its home: the README's own for one's own images."""
    (command,) = (c for c in engine_commands("run") if "<root>" in c)
    assert main([*world.words(command), *small()]) == 0
    return world


def small() -> list[str]:
    return [word for text in SMALL for word in ("--set", text)]


def test_every_command_has_a_test() -> None:
    known = (
        "make",
        "docker",
        "python -m app.main",
        *ELSEWHERE,
        *(f"python -m {name}" for name in SMALL_BENCHES),
        *ENGINE,
    )
    assert [command for command in COMMANDS if not command.startswith(known)] == []
    tested = {*SAID, *TRIED, *REPORTS, *ARCHIVES, *GOING_ON, *JOINING, *PRETRAINED, *DEPLOYED, *TABLES}
    left = [c for c in ENGINE if c not in tested and not c.startswith(tuple(ELSEWHERE))]
    assert left == RUNS, "of every run, the plan is made and a small one is run"
    assert len(COMMANDS) > 40


SAID = engine_commands("list", "show", "status", "methods", "doctor", "data", "plan")
TRIED = engine_commands("predict", "export") + [c for c in ENGINE if c == "python -m engine weights list"]
GOING_ON = engine_commands("extend", "fork", "cancel", "resume")
REPORTS = engine_commands("report")
ARCHIVES = engine_commands("export-run", "import-run")
JOINING = engine_commands("join")
PRETRAINED = engine_commands("pretrain")
DEPLOYED = engine_commands("federation", "server", "site") + [c for c in engine_commands("run") if "--server" in c]
RUNS = [c for c in engine_commands("run") if "--server" not in c]
TABLES = engine_commands("table")
"""Executed in ``test_table_commands.py``, and those of a join in ``test_join_commands.py``."""


@pytest.mark.parametrize("command", [*SAID, *TRIED])
def test_a_command_on_data_or_on_a_finished_run(
    finished: World, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = finished.words(command)
    if "--out" in words:
        shutil.rmtree(finished.folder / words[words.index("--out") + 1], ignore_errors=True)
    assert main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert said.strip() and "Traceback" not in said
    if "--out" in words:
        out = finished.folder / words[words.index("--out") + 1]
        assert sorted(path.suffix for path in out.iterdir()) in (
            [".png"],
            [".csv", ".tif"],
            [".json", ".md", ".onnx", ".onnx"],
        )


def test_a_finished_run_goes_to_another_home_without_the_images_of_its_sites(finished: World) -> None:
    for command in ARCHIVES:  # in the README's order
        assert main(finished.words(command)) == 0
    (taken_in,) = RunStore(finished.folder / "other_home").list()
    assert taken_in.status == "finished" and taken_in.run_id == RunStore(finished.home).list()[0].run_id
    images = {path.read_bytes() for path in (finished.folder / "hospitals").rglob("images/*.png")}
    with zipfile.ZipFile(finished.folder / "run.zip") as zipped:
        names = zipped.namelist()
        assert not [name for name in names if zipped.read(name) in images]
    assert any(name.startswith("run/samples/") for name in names), "its own pictures are in it"


@pytest.mark.parametrize("command", REPORTS)
def test_a_report_of_a_finished_run_is_written_once(finished: World, command: str) -> None:
    words = finished.words(command)
    assert main(words) == 0
    (run,) = RunStore(finished.home).list()
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert run.run_id in page and "C6_alexandria" in page and "<script" not in page
    lines = (finished.folder / "ledger.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 10 and all(line.startswith(run.run_id) for line in lines[1:])
    assert main(words) == 2, "nothing is overwritten"


@pytest.mark.parametrize("command", GOING_ON)
def test_a_command_that_goes_on_with_a_run(
    world: World, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stages that take no time; the stages themselves are continued in test_resume_bit_equal and test_stages."""
    monkeypatch.setenv("DSFEDMED_HOME", str(tmp_path))
    monkeypatch.setenv("DSFEDMED_STAND_INS", LIGHT)
    words = world.words(command)
    store = RunStore(tmp_path)
    light = ["run", "--preset", "phantom_cpu_smoke", "--set", "method=fedtinysam", "--set", "student.weights=none"]
    if words[0] in ("cancel", "resume"):
        assert main([*light, "--detach", "--set", "data.images_per_site=20", "--set", "federation.rounds=300"]) == 0
    else:
        assert main(light) == 0
    (before,) = store.list()
    if words[0] == "resume":
        cancel(["cancel", "last"], store)
    if words[0] == "fork":  # the light method has no such stage; its last ones stand for it
        words = [{"mutual_distillation": "evaluation"}.get(word, word) for word in words]
    if words[0] == "cancel":
        cancel(words, store)
    else:
        assert main(words) == 0
    after = store.list()
    assert {"cancel": "cancelled"}.get(words[0], "finished") == after[0].status
    assert len(after) == (2 if words[0] == "fork" else 1)
    if words[0] == "fork":
        assert after[0].parent == before.run_id and after[0].config.distillation.epochs == 20
    if words[0] == "extend":
        assert after[0].config.federation.rounds == 30 > before.config.federation.rounds
    store.close()


def cancel(words: list[str], store: RunStore) -> None:
    """Cancel a run; a busy machine's worker may stop only after the command has said that it has not stopped yet."""
    assert main(words) in (0, 2)
    wait(lambda: store.list()[0].status == "cancelled")


@pytest.mark.parametrize("task", TASKS)
def test_the_run_that_new_phantoms_are_offered_can_be_planned(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the task: the preset holds out a site that only its own task has."""
    assert main(["data", "phantoms", task, "--out", str(tmp_path / "a set"), "--images", "12", "--px", "32"]) == 0
    (told,) = documents.MODULE_COMMAND.findall(capsys.readouterr().out.replace("'", "").replace("a set", "a_set"))
    words = [word.replace("a_set", "a set") for word in told.split()[4:]]
    assert main(["plan", *words]) == 0


@pytest.mark.parametrize("command", RUNS)
def test_a_run_can_be_planned(world: World, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its configuration and images are as ``run`` would find them; see below for the runs themselves."""
    assert main(["plan", *world.words(command)[1:]]) == 0
    assert "federated_training" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(4 * RUN_S)
@pytest.mark.parametrize("command", RUNS)
def test_a_small_run(world: World, command: str, tmp_path: Path) -> None:
    assert main([*world.words(command), *small(), "--home", str(tmp_path)]) == 0
    store = RunStore(tmp_path)
    (run,) = store.list()
    assert run.status == "finished" and store.evaluation(run.run_id)
    store.close()


def test_a_federation_by_its_commands_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs until it is stopped, and the run itself, are parsed; tests/deployment executes them."""
    monkeypatch.chdir(tmp_path)
    assert len(DEPLOYED) == 12
    for command in sorted(DEPLOYED, key=COMMANDS.index):
        words = shlex.split(command)[3:]
        if words[0] in ("server", "run") or words[:2] == ["site", "up"]:
            parse(words)
            continue
        assert main(words) == 0, command
        if words[1] == "add-site" and "--request" not in words:
            (tmp_path / "FEDERATION" / "for-sites" / "north").rename(tmp_path / "north")


@pytest.mark.parametrize("command", [*PRETRAINED, *engine_commands("weights")])
def test_a_command_on_weights_is_one_that_the_command_line_takes(command: str) -> None:
    given = parse(shlex.split(command)[3:]).params
    assert given.get("job", "vae") in jobs.DEFAULT_MINUTES
    assert "name" not in given or find_asset(given["name"]).url


@pytest.mark.slow
@pytest.mark.timeout(4 * RUN_S)
def test_the_mini_weights_are_made_again(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which they build on each other, on few images, into a copy of the weights."""
    weights = tmp_path / "weights"
    shutil.copytree(ROOT / "assets" / "weights", weights)
    few = {"images_per_task": 6, "held_out_per_task": 2}
    monkeypatch.setattr(segmenters, "LARGE_CORPUS", 6)
    monkeypatch.setattr(segmenters, "HELD_OUT", {128: 2, 256: 2})
    whole_job, whole_settings = jobs.run_job, settings.Settings
    monkeypatch.setattr(jobs, "run_job", lambda *args, **options: whole_job(*args, output=weights, **options))
    monkeypatch.setattr(settings, "Settings", lambda **options: whole_settings(**few, **options))
    monkeypatch.setenv("DSFEDMED_CACHE", str(tmp_path / "cache"))
    order = list(jobs.DEFAULT_MINUTES)
    order.sort(key=["vae", "unet", "controlnet", "tinysam", "sam"].index)
    commands = sorted(set(PRETRAINED), key=lambda command: order.index(command.split()[4]))
    assert {command.split()[4] for command in commands} == set(order)
    for command in commands:
        before = {path: path.stat().st_mtime_ns for path in weights.rglob("*.safetensors")}
        words = re.sub(r" --minutes \d+", "", command).split()[3:]
        assert main([*words, "--steps", "1"]) == 0
        assert before != {path: path.stat().st_mtime_ns for path in weights.rglob("*.safetensors")}
        cards = [path.read_text(encoding="utf-8") for path in weights.rglob("*.md")]
        assert any(f"`python -m engine {words[0]} {words[1]} --steps 1`" in card for card in cards)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m bench.")])
def test_a_bench_takes_the_options_that_it_is_given(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, module, *options = shlex.split(command)
    assert module in SMALL_BENCHES, "give the options that make it small"
    monkeypatch.setattr(sys, "argv", [module, *options, *shlex.split(SMALL_BENCHES[module]), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    assert ended.value.code == 0
    known = capsys.readouterr().out
    given = [word for word in [*options, *shlex.split(SMALL_BENCHES[module])] if word.startswith("--")]
    assert [option for option in given if not re.search(rf"{option}\b", known)] == []


@pytest.mark.slow
@pytest.mark.timeout(4 * RUN_S)
@pytest.mark.parametrize("module", SMALL_BENCHES)
def test_a_bench_runs(world: World, module: str) -> None:
    command = [sys.executable, "-m", module, *shlex.split(SMALL_BENCHES[module])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * RUN_S, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d", done.stdout)


def test_the_commands_of_a_card_in_a_folder_of_its_own(world: World, finished: World, tmp_path: Path) -> None:
    """A hospital that was given a bundle has its card and nothing else of this repository's documents."""
    assert main(["export", "last", "--out", str(tmp_path / "bundle")]) == 0
    commands, _ = documents.in_markdown((tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8"))
    assert commands
    for command in commands:
        words = [{"FOLDER": str(tmp_path / "bundle")}.get(word, word) for word in world.words(command)]
        assert main([*words[:-1], str(tmp_path / words[-1])]) == 0
        assert list((tmp_path / words[-1]).glob("*.png"))
