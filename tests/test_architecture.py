"""The structure that CONTRIBUTING.md promises, checked on every file; and each check, on a file that breaks it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import architecture as rules
import pytest

from tests.patience import WAIT_S

ROOT = Path(__file__).resolve().parent.parent
SOURCES = rules.read_modules(ROOT, ("engine", "export", "app"))
BENCH = rules.read_modules(ROOT, ("bench",))
TESTS = rules.read_modules(ROOT, ("tests",))
EVERYTHING = [*SOURCES, *BENCH, *TESTS]


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 50
    assert {module.name.split(".")[0] for module in SOURCES} == {"engine", "export", "app"}


@pytest.mark.parametrize(
    ("check", "modules"),
    [
        (rules.find_long_files, EVERYTHING),
        (rules.find_tests_of_one_name, TESTS),
        (rules.find_long_functions, EVERYTHING),
        (rules.find_vague_names, EVERYTHING),
        (rules.find_missing_future, EVERYTHING),
        (rules.find_wrong_imports, [*SOURCES, *BENCH]),
        (rules.find_torch, SOURCES),
        (rules.find_global_randomness, [*SOURCES, *BENCH]),
        (rules.find_pickling, SOURCES),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_no_file_breaks_the_rule(check: Callable[..., list[str]], modules: list[rules.Module]) -> None:
    found = check(modules)
    assert not found, "\n".join(found)


def test_only_the_federation_speaks_flower() -> None:
    assert (
        rules.find_foreign([*SOURCES, *BENCH], package="flwr", only_in=("engine.federation", "engine.site.node")) == []
    )


def test_only_the_ray_back_end_imports_ray() -> None:
    allowed = tuple(f"engine.federation.backends.{name}" for name in ("ray_cluster", "raygrid"))
    assert rules.find_foreign([*SOURCES, *BENCH], package="ray", only_in=allowed) == []


SERVER_SIDE = ("engine.stages", "engine.methods", "engine.distillation", "engine.planning", "engine.runs")
OPENS_IMAGES = (
    "engine.site",
    *(f"engine.data.{name}" for name in ("datasets", "folders", "first_read", "readers", "survey", "validation")),
)
BORDER_CROSSINGS = (
    "engine.federation.connect",
    *(f"engine.federation.backends.{name}" for name in ("local", "site_programs", "ray_sites", "fixed_test")),
)
"""Where sites that lie on this machine are opened, as programs of their own; a deployed federation does without, but
for a test set of the server's own."""


@pytest.mark.parametrize("opener", OPENS_IMAGES)
def test_the_server_opens_no_image_of_a_site(opener: str) -> None:
    """The promise that images stay: a stage has no way to them but to ask a site."""
    server = [m for m in SOURCES if any(rules.starts_with(m.name, name) for name in SERVER_SIDE)]
    federation = [m for m in SOURCES if rules.starts_with(m.name, "engine.federation")]
    asked = [m for m in federation if m.name not in BORDER_CROSSINGS]
    assert len(server) > 30 and len(asked) > 8
    assert rules.find_foreign([*server, *asked], package=opener, only_in=()) == []


def test_the_public_set_is_read_from_its_own_folder_alone() -> None:
    """What the server opens by itself is never a site's: one module, one folder, one call."""
    nodes = [(module.name, node) for module in SOURCES for node in ast.walk(module.tree)]
    named = {name for name, node in nodes if isinstance(node, ast.Attribute) and node.attr == "public_root"}
    assert named == {"engine.data.public", "engine.planning.checks"}  # the latter warns where it has no effect
    calls = [node for name, node in nodes if name == "engine.data.public" and isinstance(node, ast.Call)]
    scans = [ast.unparse(call) for call in calls if ast.unparse(call.func) in ("scan_dataset", "read_folders")]
    assert scans == ["scan_dataset(config.public_root)"]


def test_the_servers_test_set_is_read_from_its_own_folder_alone() -> None:
    """Beside sites elsewhere one module opens images: of a configuration that names no other folder than the test's."""
    (module,) = (m for m in SOURCES if m.name == "engine.federation.backends.fixed_test")
    calls = {ast.unparse(node) for node in ast.walk(module.tree) if isinstance(node, ast.Call)}
    opened = {call for call in calls if call.startswith(("load_", "read_", "scan_", "sites_here"))}
    assert opened == {
        "load_test_set(own, name=about.name, classes=about.classes, sources=sources)",
        "read_everything(self._federation, on_image=on_image)",
    }
    assert "config.data.model_copy(update={'root': None})" in calls


@pytest.mark.parametrize("prefix", ["app", "tests"])
def test_nothing_imports_the_page_or_the_tests(prefix: str) -> None:
    assert rules.find_imports_of([*SOURCES, *BENCH], prefix=prefix) == []


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (rules.find_long_files, "engine/a.py", "\n" * 401),
        (rules.find_long_functions, "engine/a.py", "def f():\n" + "    pass\n" * 60),
        (rules.find_vague_names, "engine/utils/a.py", ""),
        (rules.find_vague_names, "app/helpers.py", ""),
        (rules.find_missing_future, "engine/a.py", "import os"),
        (rules.find_wrong_imports, "engine/models/a.py", "from engine.data import datasets"),
        (rules.find_wrong_imports, "engine/models/a.py", "def f():\n    import engine.stages.context"),
        (rules.find_wrong_imports, "engine/runs/store.py", "from engine.methods import METHODS"),
        (rules.find_wrong_imports, "engine/federation/a.py", "from engine import distillation"),
        (rules.find_wrong_imports, "engine/methods/a.py", "from engine.distillation.mutual import epoch"),
        (rules.find_wrong_imports, "engine/data/a.py", "from . import readers"),
        (rules.find_wrong_imports, "engine/stages/a.py", "import app.main"),
        (rules.find_wrong_imports, "app/a.py", "from engine.models.registry import build_model"),
        (rules.find_wrong_imports, "export/runtime.py", "from export.package import write_bundle"),
        (rules.find_wrong_imports, "engine/new.py", "import engine.models"),
        (rules.find_torch, "app/tabs/a.py", "def f():\n    from torch import nn"),
        (rules.find_torch, "engine/runs/store.py", "import torch.nn"),
        (rules.find_global_randomness, "engine/a.py", "import torch\ntorch.manual_seed(1)"),
        (rules.find_global_randomness, "engine/a.py", "torch.cuda.manual_seed_all(1)"),
        (rules.find_global_randomness, "engine/a.py", "import numpy as np\nnp.random.seed(1)"),
        (rules.find_global_randomness, "engine/a.py", "from random import shuffle"),
        (rules.find_global_randomness, "engine/a.py", "g = np.random.default_rng(3)"),
        (rules.find_pickling, "engine/a.py", "torch.save({}, 'x')"),
        (rules.find_pickling, "engine/a.py", "torch.load('x')"),
        (rules.find_pickling, "engine/a.py", "torch.load('x', weights_only=False)"),
        (rules.find_pickling, "engine/a.py", "np.load('x', allow_pickle=True)"),
        (rules.find_pickling, "engine/a.py", "import pickle\npickle.dumps(1)"),
    ],
)
def test_each_rule_catches_its_violation(check: Callable[..., list[str]], path: str, text: str) -> None:
    found = check([rules.make_module(path, text)])
    assert len(found) == 1
    assert path in found[0]


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (rules.find_long_files, "engine/a.py", "\n" * 400),
        (rules.find_long_functions, "engine/a.py", "def f():\n" + "    pass\n" * 59),
        (rules.find_wrong_imports, "engine/stages/a.py", "from export.package import write_bundle"),
        (rules.find_wrong_imports, "engine/runs/store.py", "from engine.runs.records import RunRecord"),
        (rules.find_wrong_imports, "engine/cli.py", "from engine.pretraining import corpus"),
        (rules.find_torch, "engine/models/a.py", "import torch"),
        (rules.find_torch, "engine/planning.py", "import torchless"),
        (
            rules.find_global_randomness,
            "engine/a.py",
            "with torch.random.fork_rng(devices=[]):\n    torch.random.default_generator.manual_seed(1)",
        ),
        (rules.find_pickling, "engine/a.py", "torch.load('x', weights_only=True)"),
    ],
)
def test_no_rule_forbids_what_is_right(check: Callable[..., list[str]], path: str, text: str) -> None:
    assert check([rules.make_module(path, text)]) == []


def test_two_test_files_of_one_name_are_found() -> None:
    paths = ("tests/a/test_x.py", "tests/a/world.py", "tests/b/test_x.py", "tests/b/test_y.py", "tests/b/world.py")
    found = rules.find_tests_of_one_name([rules.make_module(path, "") for path in paths])
    assert found == ["tests/b/test_x.py: called as tests/a/test_x.py"]


def torch_free_modules() -> list[str]:
    """Return every existing module that must do without torch, and the page's start, which must exist."""
    found = {
        module.name for module in SOURCES if any(rules.starts_with(module.name, name) for name in rules.TORCH_FREE)
    }
    return sorted(found | {"app.main"})


def test_the_rounds_of_a_student_load_no_diffusion_model() -> None:
    """Generators alone need diffusers and transformers, which take longer to load than all the rest."""
    program = (
        "import sys\n"
        "import engine.site.program, engine.stages.federated_training\n"
        "assert not {'diffusers', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_torch_free_modules_load_without_torch() -> None:
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} brings in torch'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *torch_free_modules()],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stderr
