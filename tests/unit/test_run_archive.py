"""A run as one zip: the same at another home, without what is a site's own; hostile archives leave nothing."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs_world import config, finished_run, results

from engine.cli import main
from engine.config import load_config
from engine.errors import UserError
from engine.runs import archive, folders, lifecycle
from engine.runs.archive_export import export_run
from engine.runs.archive_import import import_run
from engine.runs.events import StoreReporter
from engine.runs.schema import SCHEMA_VERSION
from engine.runs.store import RunStore
from engine.types import SampleScore, SyntheticSample

CANARY = b"a patient's image, of a site"
Parts = dict[str, bytes]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


@pytest.fixture
def other(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "other")


def run_with_samples(store: RunStore) -> str:
    run_id = finished_run(store)
    folder = store.run_dir(run_id)
    for name in ("samples/a/0.png", "samples/a/0_mask.png", "data/identity.json", "run_report.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 3)
    reporter = StoreReporter(store, run_id, "export", attempt=1)
    sample = SyntheticSample("a/0", "a", 0, 7, "a/train/1", "real", Path("samples/a/0.png"),
                             Path("samples/a/0_mask.png"), 0.5)  # fmt: skip
    reporter.samples([sample])
    reporter.scores([SampleScore("a/0", 0, 0.25, float("nan"), 0.5, 1, True)])
    reporter.artefact("sample", Path("samples"))
    reporter.flush()
    return run_id


def shown(store: RunStore, run_id: str) -> dict[str, Any]:
    """What a reader sees of the run, without files that stay behind."""
    found = results(store, run_id)
    found["files"] = {n: c for n, c in found["files"].items() if not n.startswith(("checkpoints/", "sites/"))}  # type: ignore[attr-defined]
    log = [line.text for line in store.events(run_id) if not line.text.startswith("Imported")]
    record = store.get(run_id)
    return {**found, "log": log, "record": (record.name, record.status, record.config_json, record.created_at),
            "samples": store.samples(run_id).items[0].sample, "stages": store.stages(run_id)}  # fmt: skip


def test_a_run_is_the_same_at_another_home(store: RunStore, other: RunStore, tmp_path: Path) -> None:
    run_id = run_with_samples(store)
    num_bytes = export_run(store, run_id, tmp_path / "run.zip")
    assert num_bytes == (tmp_path / "run.zip").stat().st_size
    assert import_run(other, tmp_path / "run.zip") == run_id
    assert shown(other, run_id) == shown(store, run_id)
    assert (other.run_dir(run_id) / "samples/a/0.png").read_bytes() == b"samples/a/0.png" * 3
    assert not (other.run_dir(run_id) / folders.MARK).exists() and other.get(run_id).host is None
    assert [line.text for line in other.events(run_id)][-1] == "Imported from run.zip."
    assert RunStore(other.home).get(run_id).status == "finished", "nobody takes it for a leftover"


def test_images_of_sites_and_what_is_theirs_never_go_along(store: RunStore, tmp_path: Path) -> None:
    run_id = run_with_samples(store)
    folder = store.run_dir(run_id)
    for name in ("sites/a/image.png", "sites/a/optimiser.safetensors", "data/images/a.png", "checkpoints/a.png",
                 "a.png", "cache/a.npy", "earlier/sites/a.png", "models/.hidden.png"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(CANARY)
    (folder / "samples/a/link.png").symlink_to(folder / "a.png")
    store.write_artefact(run_id, "federated_training", "model", "sites/a/image.png")
    store.write_artefact(run_id, "federated_training", "model", "earlier")
    export_run(store, run_id, tmp_path / "run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip") as zipped:
        names = set(zipped.namelist())
        assert not [name for name in names if CANARY in zipped.read(name)]
        assert b"sites/a/image.png" not in zipped.read("records.json")
    assert names == {"manifest.json", "records.json", *(f"run/{name}" for name in (
        "bundle/manifest.json", "bundle/model.onnx", "data/identity.json", "evaluation/rows.json",
        "models/student.safetensors", "run_report.json", "samples/a/0.png", "samples/a/0_mask.png",
    ))}  # fmt: skip


def test_an_archive_without_models_is_read_but_not_gone_on_from(
    store: RunStore, other: RunStore, tmp_path: Path
) -> None:
    run_id = run_with_samples(store)
    for name in ("generators/a/config.json", "generators/a/x.safetensors"):
        (store.run_dir(run_id) / name).parent.mkdir(parents=True, exist_ok=True)
        (store.run_dir(run_id) / name).write_bytes(b"weights")
    store.write_artefact(run_id, "generator_training", "generator", "generators/a")
    assert main(["export-run", run_id, "--to", str(tmp_path / "run.zip"), "--without-models",
                 "--home", str(store.home)]) == 0  # fmt: skip
    with zipfile.ZipFile(tmp_path / "run.zip") as zipped:
        assert not [n for n in zipped.namelist() if any(word in n for word in ("generators", "models/", "bundle"))]
        assert {"run/samples/a/0.png", "run/run_report.json"} <= set(zipped.namelist())
    assert import_run(other, tmp_path / "run.zip") == run_id
    assert {made.kind for made in other.artefacts(run_id)} == {"sample"}
    assert results(other, run_id)["evaluation"] == results(store, run_id)["evaluation"]
    stage = other.stages(run_id)[1].name
    with pytest.raises(UserError) as caught:
        lifecycle.fork(other, run_id, stage=stage, config=other.get(run_id).config)
    assert caught.value.code == "run.models_missing" and len(other.list()) == 1
    assert lifecycle.fork(store, run_id, stage=stage, config=store.get(run_id).config), "where its models are"


def test_nobodys_name_and_machine_go_along(store: RunStore, tmp_path: Path) -> None:
    run_id = finished_run(store)
    store.update_run(run_id, started_by="visitor:secret", host="machine-of-ours")
    (store.run_dir(run_id) / "run_report.json").write_text('{"started_by": "visitor:secret", "seed": 5}')
    export_run(store, run_id, tmp_path / "run.zip")
    parts = parts_of(tmp_path / "run.zip")
    for part in parts.values():
        assert b"visitor:secret" not in part and b"machine-of-ours" not in part
    assert json.loads(parts["run/run_report.json"]) == {"started_by": None, "seed": 5}


def test_an_archive_for_others_names_no_place_of_this_machine(store: RunStore, other: RunStore, tmp_path: Path) -> None:
    run_id = finished_run(store)
    root = str(tmp_path / "Dr Secret" / "scans")
    config = load_config("real_cpu", overrides={"data.root": root, "name": store.get(run_id).name})
    about = {"config_json": config.model_dump_json(), "config_hash": config.content_hash(), "method": config.method}
    store.update_run(run_id, **about)
    reporter = StoreReporter(store, run_id, "export", attempt=1)
    reporter.log("warning", f"{root}/a/0.png is grey; kept in {store.run_dir(run_id)}.")
    reporter.flush()
    report = {"config": config.model_dump(mode="json"), "config_hash": config.content_hash(), "started_by": "me",
              "stage_hashes": {"federated_training": "x"}, "artefacts": [f"{root}/b"]}  # fmt: skip
    (store.run_dir(run_id) / "run_report.json").write_text(json.dumps(report), encoding="utf-8")
    to = str(tmp_path / "run.zip")
    assert main(["export-run", run_id, "--to", to, "--without-places", "--home", str(store.home)]) == 0
    parts = parts_of(tmp_path / "run.zip")
    for name, part in parts.items():
        assert b"Secret" not in part and str(tmp_path).encode() not in part, name
    assert import_run(other, tmp_path / "run.zip") == run_id
    taken = other.get(run_id)
    assert str(taken.config.data.root) == "scans" and taken.config_hash == taken.config.content_hash()
    assert taken.config_hash != config.content_hash()
    assert f"scans/a/0.png is grey; kept in {run_id}." in [line.text for line in other.events(run_id)]
    told = json.loads(parts["run/run_report.json"])
    assert (told["config_hash"], told["started_by"], told["artefacts"]) == (taken.config_hash, None, ["scans/b"])
    assert told["stage_hashes"]["federated_training"] not in ("x", ""), "a fork of it is known by its own hash"
    assert str(store.get(run_id).config.data.root) == root, "the run itself stays as it was"


def test_only_a_finished_run_goes_and_nothing_is_overwritten(store: RunStore, tmp_path: Path) -> None:
    waiting = store.create_run(config(), queued=True).run_id
    done = finished_run(store)
    (tmp_path / "there.zip").write_bytes(b"mine")
    for run_id, to, code in ((waiting, "run.zip", "unfinished"), (done, "there.zip", "exists")):
        with pytest.raises(UserError) as caught:
            export_run(store, run_id, tmp_path / to)
        assert caught.value.code == f"run_archive.{code}"
    with pytest.raises(UserError, match="MB"):
        export_run(store, done, tmp_path / "run.zip", most_bytes=10)
    assert (tmp_path / "there.zip").read_bytes() == b"mine" and not (tmp_path / "run.zip").exists()


def parts_of(path: Path) -> Parts:
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def written(path: Path, parts: Parts) -> Path:
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in parts.items():
            zipped.writestr(name, content)
    return path


def in_manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Parts], None]:
    def changed(parts: Parts) -> None:
        told = json.loads(parts["manifest.json"])
        change(told)
        parts["manifest.json"] = json.dumps(told).encode()

    return changed


def in_records(change: Callable[[dict[str, Any]], Any]) -> Callable[[Parts], None]:
    """Change the records and let the manifest say so: its author is the attacker."""

    def changed(parts: Parts) -> None:
        told = json.loads(parts["records.json"])
        change(told)
        parts["records.json"] = records = json.dumps(told).encode()
        about = {"bytes": len(records), "sha256": hashlib.sha256(records).hexdigest()}
        in_manifest(lambda manifest: manifest.update(records=about))(parts)

    return changed


def with_file(name: str) -> Callable[[Parts], None]:
    def changed(parts: Parts) -> None:
        parts[f"run/{name}"] = b"x"
        file = {"path": name, "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
        in_manifest(lambda told: told["files"].append(file))(parts)

    return changed


def first(table: str, **values: Any) -> Callable[[Parts], None]:
    return in_records(lambda told: told[table][0].update(values))


HOSTILE: dict[str, Callable[[Parts], Any]] = {
    "a path outside": with_file("../../outside.png"),
    "an absolute path": with_file("/tmp/outside.png"),
    "a path of another system": with_file("samples\\..\\x.png"),
    "a detour": with_file("samples/../models/x.png"),
    "a drive": with_file("c:/x.png"),
    "a site's own file": with_file("sites/a/optimiser.safetensors"),
    "the mark of a folder": with_file(".unfinished"),
    "images as data": with_file("data/a.png"),
    "a file that is a folder": with_file("models/student.safetensors/x"),
    "a file that the manifest does not name": lambda parts: parts.update({"run/samples/more.png": b"x"}),
    "a file that is not there": lambda parts: parts.pop("run/bundle/model.onnx"),
    "other bytes": lambda parts: parts.update({"run/bundle/model.onnx": b"9 rounds"}),
    "more bytes": lambda parts: parts.update({"run/bundle/model.onnx": b"x" * 99}),
    "a digest that is none": in_manifest(lambda told: told["files"][0].update(sha256=3)),
    "bytes below nothing": in_manifest(lambda told: told["files"][0].update(bytes=-1)),
    "a file twice": in_manifest(lambda told: told["files"].append(told["files"][0])),
    "other records": lambda parts: parts.update({"records.json": parts["records.json"] + b" "}),
    "an id that leads out": in_manifest(lambda told: told.update(run_id="../../x")),
    "no manifest": lambda parts: parts.pop("manifest.json"),
    "a manifest that is no object": lambda parts: parts.update({"manifest.json": b"[]"}),
    "a manifest deeper than a stack": lambda parts: parts.update({"manifest.json": b"[" * 100_000}),
    "a newer schema": in_manifest(lambda told: told.update(schema=SCHEMA_VERSION + 1)),
    "another format": in_manifest(lambda told: told.update(format="dsfedmed-run-2")),
    "a sample elsewhere": first("samples", image_path="../../../etc/passwd"),
    "a sample that is a folder": first("samples", image_path="samples/a"),
    "an artefact elsewhere": first("artefacts", path="/etc"),
    "a table of another program": in_records(lambda told: told.update(users=[])),
    "a column of another program": first("runs", shell="rm"),
    "somebody's name": first("runs", started_by="visitor:x"),
    "a run that extends another": first("runs", extends="261126-000000-aaaa"),
    "a run that waits": first("runs", status="queued"),
    "a stage that runs": first("stages", status="running"),
    "a parent that leads out": first("runs", parent="../x"),
    "another configuration": first("runs", config_hash="0" * 16),
    "a configuration that is none": first("runs", config_json="{"),
    "text for a number": first("metrics", step="1"),
    "a number too long": first("metrics", step=2**70),
    "half a sign": first("stages", message="\ud800"),
    "no number": in_records(lambda told: told["metrics"][0].update(value=float("nan"))),
    "a split of its own": first("evaluation", split="<b>"),
    "a row that lacks a column": in_records(lambda told: told["evaluation"][0].pop("model")),
    "a row twice": in_records(lambda told: told["evaluation"].append(told["evaluation"][0])),
    "two runs": in_records(lambda told: told["runs"].append(told["runs"][0])),
    "rows that are none": in_records(lambda told: told.update(log=3)),
}


@pytest.fixture
def exported(store: RunStore, tmp_path: Path) -> Path:
    export_run(store, run_with_samples(store), tmp_path / "run.zip")
    return tmp_path / "run.zip"


def holds_nothing(store: RunStore, outside: Path) -> bool:
    left = [path for path in store.runs_folder.rglob("*") if path.is_file()]
    return not store.list() and not left and not list(outside.rglob("outside.png"))


def test_hostile_archives_are_refused_and_leave_nothing(exported: Path, other: RunStore, tmp_path: Path) -> None:
    for name, change in HOSTILE.items():
        parts = parts_of(exported)
        change(parts)
        with pytest.raises(UserError) as caught:
            import_run(other, written(tmp_path / "hostile.zip", parts))
        assert caught.value.code in ("run_archive.damaged", "run_archive.newer"), name
        assert (caught.value.code == "run_archive.newer") == (name in ("a newer schema", "another format")), name
        assert holds_nothing(other, tmp_path), name


def test_archives_of_another_kind_are_refused(exported: Path, other: RunStore, tmp_path: Path) -> None:
    parts, path = parts_of(exported), tmp_path / "hostile.zip"
    link = zipfile.ZipInfo("run/bundle/model.onnx")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in parts.items():
            zipped.writestr(link if name == link.filename else name, content)
    with pytest.raises(UserError, match="no ordinary file"):
        import_run(other, path)
    for content in (b"", b"PK", exported.read_bytes()[:-30], b"x" * 9999):
        path.write_bytes(content)
        with pytest.raises(UserError, match="zip"):
            import_run(other, path)
    with pytest.raises(UserError, match="no file"):
        import_run(other, tmp_path / "nothing.zip")
    assert holds_nothing(other, tmp_path)


def test_sizes_are_counted_before_anything_is_inflated(
    exported: Path, other: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(exported)
    in_manifest(lambda told: told["files"].append({"path": "a", "bytes": 2**60, "sha256": "0" * 64}))(parts)
    with pytest.raises(UserError, match="different files"):
        import_run(other, written(tmp_path / "a.zip", parts))
    monkeypatch.setattr("engine.runs.archive_import.SPARE_BYTES", 2**60)  # as if the disk were so much smaller
    with pytest.raises(UserError) as caught:
        import_run(other, exported)
    assert caught.value.code == "run_archive.too_large"
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    with pytest.raises(UserError, match="more than 3 files"):
        import_run(other, exported)
    monkeypatch.setattr(archive, "MAX_FILES", 100)
    monkeypatch.setattr(archive, "MAX_RECORDS_BYTES", 3)
    with pytest.raises(UserError, match=r"manifest.json has"):
        import_run(other, exported)
    assert holds_nothing(other, tmp_path)


def test_a_run_that_is_there_stays_as_it_is(exported: Path, store: RunStore, other: RunStore) -> None:
    run_id = store.list()[0].run_id
    before = shown(store, run_id)
    with pytest.raises(UserError) as caught:
        import_run(store, exported)
    assert caught.value.code == "run_archive.known" and shown(store, run_id) == before
    (other.run_dir(run_id)).mkdir(parents=True)
    (other.run_dir(run_id) / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="or its folder"):
        import_run(other, exported)
    assert (other.run_dir(run_id) / "mine.txt").read_text() == "mine" and not other.list()


KILLED = """
import os, signal, sys
from pathlib import Path
from engine.runs import archive_import
from engine.runs.store import RunStore

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(RunStore if sys.argv[3] == "create_imported" else archive_import, sys.argv[3], killed)
archive_import.import_run(RunStore(sys.argv[1]), Path(sys.argv[2]))
"""


def test_an_import_that_is_killed_leaves_nothing(exported: Path, other: RunStore, tmp_path: Path) -> None:
    run_id = json.loads(parts_of(exported)["manifest.json"])["run_id"]
    command = [sys.executable, "-c", KILLED, str(other.home), str(exported), "create_imported"]
    assert subprocess.run(command, check=False, timeout=300).returncode == -signal.SIGKILL
    assert (other.run_dir(run_id) / "models/student.safetensors").is_file(), "its files were there"
    again = RunStore(other.home)
    assert holds_nothing(again, tmp_path)
    assert import_run(again, exported) == run_id, "and it can be taken in after all"


def test_the_commands(store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id, to, home = finished_run(store), str(tmp_path / "run.zip"), str(tmp_path / "third")
    assert main(["export-run", "last", "--to", to, "--home", str(store.home)]) == 0
    assert f"import-run {Path(to).name}" in capsys.readouterr().out
    assert main(["import-run", to, "--home", home, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == run_id
    assert main(["import-run", to, "--home", home]) == 2
    assert "run_archive.known" in capsys.readouterr().err
