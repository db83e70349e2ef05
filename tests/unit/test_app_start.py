"""Starting the page: settings, a busy port, no torch, nothing that asks another machine."""

from __future__ import annotations

import inspect
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app import stubs, theme
from app.settings import load_settings
from engine.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 300
"""Generous: a machine busy with training starts a process slowly."""


@pytest.mark.parametrize("variable", ["PORT", "GRADIO_SERVER_PORT", "DSFEDMED_PORT"])
def test_the_port_comes_from_what_hosts_set(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "8123")
    assert load_settings().port == 8123
    assert load_settings(port=9000).port == 9000


def test_read_only_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSFEDMED_READ_ONLY", "1")
    assert load_settings().read_only


def test_a_bad_setting_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSFEDMED_PORT", "web")
    with pytest.raises(UserError, match="PORT") as caught:
        load_settings()
    assert caught.value.code == "app.settings"


def test_the_page_never_loads_torch_and_the_rest_after_it_is_served() -> None:
    """Each of these costs the first paint tenths of a second, and some of them hundreds of megabytes."""
    rest = (
        "plotly",
        "onnxruntime",
        "scipy",
        "nibabel",
        "pydicom",
        "highdicom",
        "cryptography",
        "mcp",
        "engine.planning",
    )
    code = (
        f"import app.main, sys; print({{'torch', *{rest}}} & set(sys.modules)); from app import late; late.load();"
        "print('torch' in sys.modules, set(late.PARTS) <= set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.stdout.split() == ["set()", "False", "True"]


def test_gradio_makes_no_stubs_of_its_components_at_the_start_of_the_page() -> None:
    """They are half of its import: the source of each component is read, and its stub worked out and compared."""
    code = (
        "import ast, sys; read = []; parse = ast.parse; "
        "ast.parse = lambda text, *a, **k: (read.append(sys._getframe(1).f_code.co_name), parse(text, *a, **k))[1]; "
        "import app.main, inspect; print(read.count('extract_class_source_code'), inspect.getfile.__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    count, module = done.stdout.split()
    assert int(count) < 10 and module == "inspect", "our own two components, twice each; Gradio has more than eighty"


def test_what_is_not_gradios_keeps_its_file() -> None:
    with stubs.unwritten():
        assert inspect.getfile(Path) and inspect.getfile(theme)
        with pytest.raises(OSError, match="no stub"):
            inspect.getfile(type("Button", (), {"__module__": "gradio.components.button"}))
    assert inspect.getfile(Path)


@pytest.mark.parametrize("start", [["-m", "app.main"], pytest.param(["app/main.py"], marks=pytest.mark.slow)])
def test_a_busy_port_ends_with_a_sentence(start: list[str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, *start, "--port", str(port), "--home", str(tmp_path)],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip
    assert done.returncode == 2
    assert f"Port {port}" in done.stderr and "--port" in done.stderr and "Traceback" not in done.stderr


def test_style_and_theme_name_no_other_machine() -> None:
    css = theme.STYLE_FILE.read_text() + theme.studio_theme()._get_theme_css()
    # the names of XML vocabularies in inline pictures look like addresses; nobody fetches them
    assert re.findall(r"https?://(?!www\.w3\.org/)\S+|@import", css) == []
    assert theme.studio_theme()._stylesheets == []


def test_an_address_that_others_can_reach_is_not_served_without_a_rule(tmp_path: Path) -> None:
    rules = {"DSFEDMED_ACCESS", "DSFEDMED_READ_ONLY", "DSFEDMED_USERS_FILE", "SPACE_ID"}
    environment = {key: value for key, value in os.environ.items() if key not in rules}
    command = [sys.executable, "-m", "app.main", "--host", "0.0.0.0", "--port", "1", "--home", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for words in ("0.0.0.0", "--read-only", "--access demo", "--users"):
        assert words in done.stderr
    assert not (tmp_path / "studio.sqlite").exists()
