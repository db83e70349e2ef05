"""The page's endpoints as tools for assistants: by the protocol's own client, from a real page where people sign in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.server.mcpserver.exceptions import ToolError
from PIL import Image

from app import sign_in, users
from app.mcp_server import PASSWORD, SIGN_IN, Page, allowed, best, build
from bench.attack_client import Server, serving
from engine.data.phantoms import render
from tests.contract.test_page_api import ENDPOINTS, PRESET, REQUIRED
from tests.documents import documented

ROOT = Path(__file__).resolve().parents[2]
SECRET = "correct horse battery"
OPTIONAL_HERE = {("segment", "model"): "", ("plan", "configuration"): "", ("submit", "configuration"): ""}
TYPES = {"string": "string", "integer": "integer", "boolean": "boolean", "object": "string"}
"""A file is named by its path."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    for name, role in (("anna", "operator"), ("bert", "viewer")):
        users.add(folder / "users.json", name, password=SECRET, role=role)
    with serving(folder / "home", "--users", str(folder / "users.json")) as server:
        yield server


def page(address: str = "http://127.0.0.1:9", **given: Any) -> Page:
    return Page(address, **{"user": None, "password": "", "save_to": Path("unused"), **given})


def asked(command: list[str], environment: dict[str, str], calls: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """Return what a server process answers to ``calls``: its data, or its words where it refuses."""

    async def all_of_them() -> list[Any]:
        started = StdioServerParameters(command=sys.executable, args=command, env=environment, cwd=ROOT)
        async with Client(started) as client:
            answers = [await client.call_tool(name, values) for name, values in calls]
            return [one.content[0].text if one.is_error else one.structured_content for one in answers]

    return anyio.run(all_of_them)


def test_the_tools_are_the_endpoints_with_their_parameters() -> None:
    tools = anyio.run(build(page(), [ROOT]).list_tools)
    found = {
        f"/{tool.name}": {
            name: (row["type"], row.get("default", REQUIRED)) for name, row in tool.input_schema["properties"].items()
        }
        for tool in tools
    }
    assert found == {
        endpoint: {
            name: (TYPES[kind], OPTIONAL_HERE.get((endpoint[1:], name), default))
            for name, (kind, default) in parameters.items()
        }
        for endpoint, (parameters, _) in ENDPOINTS.items()
    }
    assert [tool.name for tool in tools if not tool.annotations.read_only_hint] == ["segment", "submit"]
    assert all(tool.description for tool in tools)
    assert SIGN_IN == sign_in.PATH


def test_only_images_below_the_named_folders_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.png").write_bytes(b"x")
    (tmp_path / "mine" / "a.png").write_bytes(b"x")
    (tmp_path / "mine" / "link.png").symlink_to(tmp_path / "mine.png")
    folders = [tmp_path / "mine"]
    assert allowed(str(tmp_path / "mine" / "a.png"), folders) == tmp_path / "mine" / "a.png"
    for outside in ("mine.png", "mine/../mine.png", "mine/link.png"):
        with pytest.raises(ToolError, match="is not below"):
            allowed(str(tmp_path / outside), folders)
    for none in ("mine/b.png", "mine"):
        with pytest.raises(ToolError, match="no file"):
            allowed(str(tmp_path / none), folders)


def test_the_best_model_answers_where_none_is_named() -> None:
    assert best([{"key": "a"}, {"key": "b"}]) == "a"
    with pytest.raises(ToolError, match="offers no model"):
        best([])


def test_a_page_that_is_not_there_is_told_and_asked_again(tmp_path: Path) -> None:
    one = page(save_to=tmp_path / "masks")
    for _ in range(2):
        with pytest.raises(ToolError, match=r"No page answers at http://127\.0\.0\.1:9 .*--page"):
            one.ask("/models")


@pytest.mark.slow
def test_an_assistant_signs_in_segments_and_hears_the_pages_words(server: Server, tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    Image.fromarray(render("nuclei", site="dapi_20x", index=0, image_px=128).image).save(images / "a.png")
    (command_line,) = [one.text for one in documented() if "app.mcp_server" in one.text]
    named = {"http://localhost:7860": server.address, "FOLDER": str(images)}
    command = [named.get(word, word) for word in command_line.split()[1:]] + ["--save-to", str(masks)]
    environment = {**os.environ, PASSWORD: SECRET}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("models", {}),
        ("segment", {"image": str(images / "a.png"), "anyway": True}),
        ("segment", {"image": "/etc/hostname"}),
        ("plan", {"preset": PRESET}),
        ("submit", {"preset": PRESET}),
        ("list", {"limit": 1}),
        ("status", {"run_id": "none"}),
        ("list", {"limit": 0}),
    ]
    models, segmented, outside, plan, submitted, listed, unknown, limit = asked(
        [*command, "--user", "anna"], environment, calls
    )
    assert models["models"][0]["key"] == segmented["model"] == "shipped/nuclei_cpu"
    pixels = np.asarray(Image.open(segmented["mask"]))
    assert Path(segmented["mask"]).is_relative_to(masks) and pixels.shape == (128, 128)
    assert segmented["area_share"] == {"nucleus": pytest.approx(float((pixels > 0).mean()), abs=1e-6)}
    assert "is not below a folder" in outside and str(images) in outside
    assert plan["plan"]["method"] == "dsfedmed"
    assert submitted["run_id"] == listed["runs"][0]["run_id"] and listed["runs"][0]["status"] == "queued"
    assert unknown.endswith("(run.unknown)") and limit.endswith("(api.limit)")
    (viewer,) = asked([*command, "--user", "bert"], environment, [("submit", {"preset": PRESET})])
    assert viewer.endswith("(app.viewer)")
    (refused,) = asked([*command, "--user", "anna"], {**os.environ, PASSWORD: "wrong"}, [("models", {})])
    assert "did not take the sign-in of anna" in refused and PASSWORD in refused and "wrong" not in refused
