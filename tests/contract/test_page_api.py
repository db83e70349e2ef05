"""The page's endpoints for programs, as Gradio's own client sees them at a real server: names, parameters and answers.

A program of somebody else's breaks when this test has to be changed: add parameters with a default, and nothing else.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from httpx import HTTPStatusError
from PIL import Image

from bench.attack_client import Server, serving
from engine.data.phantoms import render
from engine.runs.store import RunStore
from tests.patience import WAIT_S

ROOT = Path(__file__).resolve().parents[2]
PRESET = "phantom_cpu_smoke"
REQUIRED = object()
ENDPOINTS: dict[str, tuple[dict[str, tuple[str, Any]], list[str]]] = {
    # name: ({parameter: (JSON type, default)}, [JSON types of what it gives])
    "/models": ({}, ["object"]),
    "/segment": (
        {"image": ("object", REQUIRED), "model": ("string", REQUIRED), "slice": ("integer", 1),
         "anyway": ("boolean", False), "looks": ("string", ""), "variant": ("string", "")},
        ["object", "object"],
    ),
    "/plan": ({"configuration": ("string", REQUIRED), "preset": ("string", "")}, ["object"]),
    "/submit": ({"configuration": ("string", REQUIRED), "preset": ("string", "")}, ["object"]),
    "/status": ({"run_id": ("string", REQUIRED)}, ["object"]),
    "/list": ({"limit": ("integer", 20)}, ["object"]),
    "/report": ({"run_id": ("string", REQUIRED)}, ["object"]),
}  # fmt: skip
RUN_KEYS = {
    "run_id", "name", "status", "method", "stage", "parent", "created_at", "started_at", "finished_at",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a demonstration: what it allows a stranger, every other kind of page allows its operators."""
    with serving(tmp_path_factory.mktemp("api"), "--access", "demo") as server:
        yield server
    assert "Traceback" not in (server.home / "page.log").read_text()


@pytest.fixture(scope="module")
def client(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("downloads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))  # where each download leaves a folder behind
        yield Client(server.address, verbose=False, download_files=folder, httpx_kwargs={"timeout": WAIT_S})


@pytest.fixture(scope="module")
def foreign_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "Jane Doe.png"
    Image.fromarray(render("fundus", site=_site("fundus"), index=0, image_px=96).image).save(path)
    return path


def _site(task: str) -> str:
    from engine.data.phantoms import TASKS

    return TASKS[task].sites[0]


def refusal(client: Client, *values: Any, **named: Any) -> tuple[str, str]:
    """Return code and sentence of what the page refuses."""
    with pytest.raises(AppError) as caught:
        client.predict(*values, **named)
    return caught.value.title, str(caught.value)


def test_names_parameters_and_types_are_those_of_the_contract(client: Client) -> None:
    told = client.view_api(return_format="dict", print_info=False)
    assert isinstance(told, dict) and told["unnamed_endpoints"] == {}, "the page's own events are private"
    found = {
        name: (
            {
                row["parameter_name"]: (
                    row["type"]["type"],
                    row["parameter_default"] if row["parameter_has_default"] else REQUIRED,
                )
                for row in endpoint["parameters"]
            },
            [row["type"]["type"] for row in endpoint["returns"]],
        )
        for name, endpoint in told["named_endpoints"].items()
    }
    assert found == ENDPOINTS
    assert all(endpoint["description"] for endpoint in told["named_endpoints"].values())


def test_an_unlike_image_is_refused_in_words_and_answered_on_request(client: Client, foreign_image: Path) -> None:
    (best, *_) = client.predict(api_name="/models")["models"]
    assert best["key"] == "shipped/nuclei_cpu" and best["classes"] == ["nucleus"]
    assert 0.5 < best["dice"]["low"] < best["dice"]["dice"] < best["dice"]["high"] < 1
    code, sentence = refusal(client, handle_file(foreign_image), best["key"], api_name="/segment")
    assert code == "image.foreign" and "anyway = true" in sentence
    mask, figures = client.predict(handle_file(foreign_image), best["key"], anyway=True, api_name="/segment")
    pixels = np.asarray(Image.open(mask))
    assert pixels.shape == (96, 96) and set(np.unique(pixels)) <= {0, 255}
    assert Path(mask).name == "Jane_Doe_unlike_training_mask.png" and figures["unlike_training"]
    assert figures["area_share"] == {"nucleus": pytest.approx(float((pixels > 0).mean()), abs=1e-6)}
    assert figures["num_parts"] == 1, "no larger than the model's side"
    code, sentence = refusal(client, handle_file(foreign_image), best["key"], looks="twice", api_name="/segment")
    assert code == "looks.unknown" and "'twice'" in sentence
    code, sentence = refusal(client, handle_file(foreign_image), best["key"], slice=2, api_name="/segment")
    assert code == "api.slice" and "1 slice" in sentence
    assert refusal(client, handle_file(foreign_image), "run/../x", api_name="/segment")[0] == "app.model_unknown"


def test_a_model_looks_as_it_is_better_at_or_as_it_is_told(client: Client, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (300, 400)).astype(np.uint8)).save(tmp_path / "a.png")
    for looks, parts in (("", 6), ("fine", 6), ("parts", 4), ("whole", 1)):
        _, figures = client.predict(
            handle_file(tmp_path / "a.png"), "shipped/nuclei_cpu", anyway=True, looks=looks, api_name="/segment"
        )
        assert figures["num_parts"] == parts, looks


def test_a_run_is_planned_submitted_and_followed(client: Client, server: Server) -> None:
    plan = client.predict("", preset=PRESET, api_name="/plan")["plan"]
    assert plan["method"] == "dsfedmed" and plan["minutes"] > 0 and plan["bytes_per_site"]
    run_id = client.predict('{"federation": {"rounds": 1}}', preset=PRESET, api_name="/submit")["run_id"]
    store = RunStore(server.home)
    assert store.get(run_id).config.federation.rounds == 1, "the preset's other settings, and this one"
    assert (store.get(run_id).started_by or "").startswith("visitor:"), "Gradio's client keeps the page's cookie"
    store.close()
    (row,) = client.predict(limit=1, api_name="/list")["runs"]
    assert set(row) == RUN_KEYS and row["run_id"] == run_id
    status = client.predict(run_id, api_name="/status")
    assert set(status) == RUN_KEYS | {"eta_s", "note", "failure", "stages", "sites"} and status["status"] == "queued"
    report = client.predict(run_id, api_name="/report")
    assert set(report) == RUN_KEYS | {"config_hash", "wall_s", "evaluation", "differences", "traffic", "files"}
    assert refusal(client, "", preset=PRESET, api_name="/submit")[0] == "app.one_run"


@pytest.mark.parametrize(("endpoint", "values", "code"), [
    ("/plan", ["federation.rounds = 99", PRESET], "app.demo_settings"),
    ("/submit", ["student.weights = '/etc/passwd'", PRESET], "app.path_refused"),
    ("/submit", ["", "../../etc/passwd"], "api.preset"), ("/plan", ["{", ""], "api.syntax"),
    ("/plan", ["a = nowhere", ""], "api.syntax"), ("/plan", ["[federation]\nrouns = 3", ""], "config.invalid"),
    ("/plan", ["a" + ".a" * 15_000 + " = 1", PRESET], "api.syntax"), ("/plan", ["", ""], "api.no_configuration"),
    ("/list", [0], "api.limit"), ("/list", [201], "api.limit"),
    ("/status", ["../../etc"], "run.unknown"), ("/report", ["nothing"], "run.unknown"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_a_code(client: Client, endpoint: str, values: list[Any], code: str) -> None:
    found, sentence = refusal(client, *values, api_name=endpoint)
    assert found == code and sentence.endswith(".") and "<" not in sentence


@pytest.mark.parametrize(("endpoint", "values"), [
    ("/list", ["20"]), ("/list", [True]), ("/status", [7]), ("/status", [None]), ("/plan", ["x" * 32_001, ""]),
    ("/segment", ["/etc/passwd", "shipped/nuclei_cpu", 1, False, "", ""]),
])  # fmt: skip
def test_values_of_a_wrong_type_are_refused_before_they_are_looked_at(
    client: Client, endpoint: str, values: list[Any]
) -> None:
    with pytest.raises(HTTPStatusError) as caught:
        client.predict(*values, api_name=endpoint)
    assert caught.value.response.status_code == 400
    assert "takes" in caught.value.response.json()["detail"]


def test_the_readmes_example_runs(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = (ROOT / "README.md").read_text().split("## From a program")[1].split("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    image = tmp_path / "nuclei.png"
    example = example.replace("http://localhost:7860", server.address).replace('"IMAGE"', repr(str(image)))
    Image.fromarray(render("nuclei", site="dapi_20x", index=0, image_px=128).image).save(image)
    exec(compile(example.replace('api_name="/segment"', 'anyway=True, api_name="/segment"'), "README", "exec"), {})
    assert re.search(r"_mask\.png {'nucleus': 0\.\d+} queued", capsys.readouterr().out)
