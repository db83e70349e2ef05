"""What the documents say agrees with the code: commands that exist, names, endings, presets, packages."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import click
import documents
import pytest
import typer
from documents import ROOT

from engine.cli import app as cli
from engine.config import RunConfig, preset_names
from engine.data.description import DatasetDescription
from engine.data.readers import SUFFIXES
from engine.pretraining.jobs import DEFAULT_MINUTES

README, CONTRIBUTING = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))
GROUP = typer.main.get_command(cli)


def parse(words: list[str]) -> click.Context:
    """Parse the words after ``python -m engine`` as the command line does, and run nothing."""
    command, context = GROUP, click.Context(GROUP, info_name="engine")
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, info_name=name, parent=context)
    return command.make_context(context.info_name, words, parent=context.parent)


def command_names(group: click.Group = GROUP, *, before: str = "") -> list[str]:
    found = []
    for name, command in group.commands.items():
        inner = isinstance(command, click.Group)
        found += command_names(command, before=f"{before}{name} ") if inner else [before + name]
    return found


@pytest.mark.parametrize(
    ("text", "commands", "others"),
    [
        ("a\n\n    make demo     # it\n    make  test\n", ["make demo"], ["make"]),
        ("a\n\n    x = 1\n\n    pip install y\n", ["pip install y"], ["x = 1"]),
        ("```sh\n$ docker run x  # it\nnonsense x\n```\n", ["docker run x"], ["nonsense x"]),
        ("`make` and `make it`, `python -m engine list`", ["make it", "python -m engine list"], []),
        ("a sentence\n    that goes on\n1. `x`\n", [], []),
        (
            "a\n\n    .venv/bin/python -m engine run --set a=1\n    b\n",
            [".venv/bin/python -m engine run --set a=1"],
            ["b"],
        ),
    ],
)
def test_commands_are_found_in_markdown(text: str, commands: list[str], others: list[str]) -> None:
    assert documents.in_markdown(text) == (commands, others)


def test_commands_are_found_in_comments_docstrings_and_messages() -> None:
    assert documents.in_comments("# a (python -m engine weights\n# fetch x)\n#   make it   done\nmake: no") == [
        "make it",
        "python -m engine weights fetch x",
    ]
    assert documents.in_docstring("A.\n\n    python -m bench.x [--a 1,...]\n        [--b]\n\nEnd.") == [
        "python -m bench.x --a 1 --b"
    ]
    tree = ast.parse("""f"Run: python -m engine resume {run.id}."\n'`python -m engine list` shows'""")
    assert documents.in_messages(tree) == ["python -m engine resume {X}", "python -m engine list"]


def test_every_block_of_a_document_is_commands_or_one_of_those_that_are_not() -> None:
    """A block that the parser takes for no command would be executed by no test.

    The README's Python is executed by ``tests/contract/test_page_api.py``, which takes the one block that there is.
    """
    layout = r"[┌┐└┘│─▶▲├┼]|<root>/|[a-z]+/$"
    for name, text in (("README.md", README), ("CONTRIBUTING.md", CONTRIBUTING)):
        _, others = documents.in_markdown(re.sub(r"```python\n.*?```", "", text, count=1, flags=re.DOTALL))
        assert [line for line in others if not re.search(layout, line)] == [], name


@pytest.mark.parametrize("command", sorted({c.text for c in documents.told()}))
def test_what_a_message_tells_to_run_can_be_run(command: str) -> None:
    words = command.replace("{X}{X}", "").replace("--scale {X}", "--scale mini").split()[2:]
    if words[0] != "engine" or len(words) == 1 or words[1] == "COMMAND":
        return
    parse(["5" if word == "N" else word for word in words[1:]])


def test_short_forms_of_commands_in_messages_exist() -> None:
    """``weights list`` and the like, without ``python -m engine`` before it, in help and messages and in the README."""
    heads = {name.split()[0] for name in command_names()}
    spans = set(documents.code_spans(README + CONTRIBUTING))
    for path in [path for package in ("app", "engine", "export") for path in (ROOT / package).rglob("*.py")]:
        spans |= set(re.findall(r"`([^`\n]+)`", path.read_text(encoding="utf-8")))
    shorts = [words for span in spans if len(words := span.split()) > 1 and words[0] in heads]
    assert ["weights", "list"] in shorts
    for words in shorts:
        context, command = click.Context(GROUP), GROUP
        while isinstance(command, click.Group) and words:
            _, command, words = command.resolve_command(context, words)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words


def test_every_command_is_in_the_readme_and_its_help_tells_of_every_argument() -> None:
    said = README + " ".join(documents.code_spans(README))
    for name in command_names():
        pattern = rf"engine {name}\b|`{name}`" + (rf"|`{name.split()[0]}` " if " " in name else "")
        assert re.search(pattern, said), f"README.md does not tell of `{name}`"
        command, context = GROUP, click.Context(GROUP)
        for word in name.split():
            command = command.get_command(context, word)
        assert command.help
        unexplained = [p.name for p in command.params if not p.get_help_record(context)[1].split("  [")[0]]
        assert unexplained == [], f"{name}: {unexplained} have no help"
        text = command.get_help(click.Context(command, info_name=name))
        assert "\\" not in text
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        assert all(p.help.split()[0] in text for p in arguments), text


def test_presets_and_settings_that_the_documents_name_exist() -> None:
    spans = set(documents.code_spans(README + CONTRIBUTING))
    expanded = {name for span in spans for name in documents.expand_braces(span)}
    endings = ("_cpu", "_cpu_smoke", "_cpu_demo", "_paper")
    named = {name for name in expanded if name.endswith(endings) and re.fullmatch(r"\w+", name)}
    assert named == set(preset_names())
    sections = {k: f.annotation.model_fields for k, f in RunConfig.model_fields.items() if _is_section(f.annotation)}
    keys = [re.match(r"(\w+)\.(\w+)", span) for span in spans]
    told = {(match[1], match[2]) for match in keys if match and match[1] in sections}
    assert ("distillation", "mode") in told
    assert [pair for pair in told if pair[1] not in sections[pair[0]]] == []


def test_paths_that_the_documents_name_exist() -> None:
    text = README + CONTRIBUTING
    inside = re.findall(r"\]\(([^)#:]+)\)", text)
    inside += [
        s for s in documents.code_spans(text) if re.fullmatch(r"(app|engine|export|assets|bench|tests)/[\w/.]+", s)
    ]
    inside += [span.replace(".", "/") for span in documents.code_spans(text) if re.fullmatch(r"bench\.\w+", span)]
    missing = [name for name in inside if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()]
    assert inside and missing == []


def test_the_formats_and_keys_of_a_dataset_are_those_that_are_read() -> None:
    formats = {
        "PNG": {".png"}, "JPEG": {".jpg", ".jpeg"}, "BMP": {".bmp"}, "TIFF": {".tif", ".tiff"},
        "NIfTI": {".nii", ".nii.gz"}, "DICOM": {".dcm", ".dicom"}, "npy": {".npy"},
        "JPEG 2000": {".jp2", ".j2k"}, "JPEG-LS": {".jls"},
    }  # fmt: skip
    line = next(line for line in README.splitlines() if "images/NAME.png" in line)
    named = {name for name in re.split(r"\s*[,;]\s*", line.partition("#")[2].strip()) if name in formats}
    assert set().union(*(formats[name] for name in named)) == set(SUFFIXES)
    section = README.partition("## Your own images")[2].partition("\n## ")[0]
    keys = {span.split(" = ")[0] for span in documents.code_spans(section.partition("`dataset.toml` may")[2])}
    said = keys & set(DatasetDescription.model_fields)
    words = next(line for line in section.splitlines() if "dataset.toml " in line).partition("#")[2]
    said |= {word for word in re.findall(r"\w+", words)} & set(DatasetDescription.model_fields)
    needed = {name for name, field in DatasetDescription.model_fields.items() if field.is_required()}
    assert needed <= said
    assert {"mask_values", "mask_threshold", "value_range", "slice_axis", "group_scope"} <= said


def test_help_of_make_tells_of_every_target_and_pretraining_of_every_job() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    told = {command.split()[1] for command in documents.in_comments(makefile) if command.startswith("make ")}
    assert told == targets - {"help", "chromium"}
    (job,) = (p for p in GROUP.commands["pretrain"].params if p.name == "job")
    assert set(re.findall(r"[a-z-]+", job.help)) - {"or"} == {*DEFAULT_MINUTES, "contact-sheet"}


def test_the_space_is_described_as_it_is_pinned() -> None:
    head = dict(re.findall(r"^(\w+): \"?([^\"\n]*)\"?$", README.split("---")[1], re.M))
    assert head["sdk_version"] == pinned()["gradio"]
    assert (ROOT / head["app_file"]).is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"].startswith(f">={head['python_version']}")
    assert head["license"] == project["license"]["text"].lower()


UNIMPORTED = {
    "accelerate": "diffusers and transformers load weights without a second copy in memory where it is there",
    "onnxscript": "torch.onnx.export writes through it",
    "torchvision": "timm imports it; pinned beside torch, whose build it must match (TORCH_INDEX)",
    "onnxruntime": "the CPU build of onnxruntime-gpu, where that one does not exist",
    "itsdangerous": "starlette signs the cookies of its sessions with it",
    "pytest-timeout": "pytest loads it: --timeout",
    "pytest-xdist": "pytest loads it: -n",
    "ruff": "make lint",
    "mypy": "make lint",
    "uv": "make setup",
}
"""Distributions that are pinned though nothing imports them, each with its reason."""
OPTIONAL = {"bitsandbytes": "generator.optimiser_8bit, on CUDA machines that have it"}
OURS = {"app", "engine", "export", "bench", "tests"}


def pinned() -> dict[str, str]:
    """Return the version that requirements.txt and its optional part give each distribution."""
    files = [ROOT / "requirements.txt", ROOT / "requirements-ray.txt"]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    wanted = [words for line in lines if (words := line.partition("#")[0].strip())]
    rows = [re.fullmatch(r"([A-Za-z0-9_.-]+)==([\w.]+)(?:; .*)?", line) for line in wanted]
    assert all(rows), [line for line, row in zip(wanted, rows, strict=True) if row is None]
    return {_distribution(row[1]): row[2] for row in rows}


def imported() -> dict[str, set[str]]:
    """Return the packages that are imported anywhere, inside functions included, with the files that do so."""
    found: dict[str, set[str]] = {}
    for path in [path for package in OURS for path in (ROOT / package).rglob("*.py")]:
        beside = {other.stem for other in path.parent.glob("*.py")} | {
            p.name for p in path.parent.iterdir() if p.is_dir()
        }
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.split(".")[0] for name in names}:
                if path.is_relative_to(ROOT / "tests") and name in beside | {"conftest"}:
                    continue  # pytest puts a test's own folder on the path
                found.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    return found


def test_every_import_is_pinned_and_every_pin_imported() -> None:
    named, used, missing = pinned(), set(), {}
    owners = packages_distributions()
    for package, files in imported().items():
        if package in sys.stdlib_module_names or package in OURS or package in OPTIONAL:
            continue
        distributions = {_distribution(name) for name in owners.get(package, [])}
        used |= distributions & set(named)
        if not distributions & set(named):
            missing[package] = sorted(files)
    assert missing == {}, "imported, but not named in requirements.txt"
    assert sorted(set(named) - used - set(UNIMPORTED)) == [], "named in requirements.txt, but imported nowhere"
    assert sorted(set(UNIMPORTED) & used) == [], "imported by now: no exception any more"
    assert set(UNIMPORTED) <= set(named)


def test_the_container_goes_without_what_only_checks_need() -> None:
    """Its Dockerfile cuts requirements.txt at the heading of the last section."""
    heading = "# Checks"
    assert f"/^{heading}$/" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    _, _, last = (ROOT / "requirements.txt").read_text(encoding="utf-8").partition(f"\n{heading}\n")
    checks = {_distribution(line.partition("==")[0]) for line in last.splitlines() if line}
    assert {"pytest", "ruff"} <= checks
    owners = packages_distributions()
    served = ("app/", "engine/", "export/")
    needed = [package for package, files in imported().items() if any(file.startswith(served) for file in files)]
    assert {_distribution(name) for package in needed for name in owners.get(package, [])} & checks == set()


def test_an_optional_package_is_imported_where_its_absence_is_told() -> None:
    for package in OPTIONAL:
        (file,) = imported()[package]
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
        assert any(package in ast.unparse(node.body[0]) for node in tries), file


def _distribution(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_section(annotation: object) -> bool:
    return hasattr(annotation, "model_fields")
