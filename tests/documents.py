"""The commands and names that the project's texts give, found as text; ``test_documents.py`` and ``test_commands.py``
hold them to the code."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = (
    r"\.venv/bin/\S+|make|python\S*|pip|uv|docker|podman|git|pytest|ruff|mypy|curl|wget|tar|unzip|sudo|apt\S*|conda|npm|npx"
    r"|bash|sh|source|cd|cp|mv|rm|mkdir|export|playwright|chromium|nginx|\./\S+|[A-Z_]+=\S+"
)
COMMAND = re.compile(rf"(?:{PROGRAMS})\s+\S.*")
MODULE_COMMAND = re.compile(r"python -m (?:engine|app\.main|bench\.\w+)(?: [\w<>=./{}:+-]+)*")


@dataclass(frozen=True, order=True)
class Command:
    """One command as a text gives it, without prompt and comment, and the file that gives it."""

    text: str
    source: str


def in_markdown(text: str) -> tuple[list[str], list[str]]:
    """Return the commands of a Markdown text, of its code blocks and its code spans, and the blocks' other lines."""
    commands, others = [], []
    fenced, after_blank = False, True
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or (line.startswith("    ") and after_blank):
            found = _cleaned(line)
            if found:
                (commands if COMMAND.fullmatch(found) else others).append(found)
            continue  # a block goes on: the next indented line belongs to it too
        else:
            commands += [span for span in re.findall(r"`([^`]+)`", line) if COMMAND.fullmatch(span)]
        after_blank = not line.strip()
    return commands, others


def in_comments(text: str, *, sign: str = "#") -> list[str]:
    """Return the commands in the comment lines of a Makefile, a Dockerfile or a TOML file."""
    lines = [line.removeprefix(sign) for line in text.splitlines() if line.startswith(sign)]
    indented = [found for line in lines if line.startswith("   ") and COMMAND.fullmatch(found := _cleaned(line))]
    return indented + MODULE_COMMAND.findall(" ".join(line.strip() for line in lines))


def in_docstring(text: str) -> list[str]:
    """Return the indented commands of a docstring; brackets mark what may go, and begin lines that go on."""
    joined = re.sub(r"\s+(?=\[--)", " ", text)
    return [
        re.sub(r"[\[\]]|,?\.\.\.", "", found)
        for line in joined.splitlines()
        if line.startswith("    ") and COMMAND.fullmatch(found := _cleaned(line))
    ]


def in_messages(tree: ast.AST) -> list[str]:
    """Return the commands that a module's texts tell people to run; what is filled in later is ``{X}``."""
    texts = []
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(str(p.value) if isinstance(p, ast.Constant) else "{X}" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            texts.append(node.value)
    return [found.rstrip(".:") for text in texts for found in MODULE_COMMAND.findall(text)]


def documented() -> list[Command]:
    """Return every command of README, CONTRIBUTING, cards, registry, Makefile, Dockerfile, presets and benches."""
    found: list[Command] = []
    for path in [*ROOT.glob("*.md"), *sorted((ROOT / "assets").rglob("*.md"))]:
        found += _of(path, in_markdown(path.read_text(encoding="utf-8"))[0])
    for path in [ROOT / "Makefile", ROOT / "Dockerfile", *sorted((ROOT / "engine" / "presets").glob("*.toml"))]:
        found += _of(path, in_comments(path.read_text(encoding="utf-8")))
    for path in sorted((ROOT / "bench").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += _of(path, in_docstring(ast.get_docstring(tree) or ""))
    registry = ROOT / "assets" / "registry.json"
    rows = json.loads(registry.read_text(encoding="utf-8"))["assets"].values()
    return found + _of(registry, [row["made_by"] for row in rows if "made_by" in row])


def told() -> list[Command]:
    """Return the commands that the product's own sentences tell people to run."""
    paths = [path for package in ("app", "engine", "export") for path in sorted((ROOT / package).rglob("*.py"))]
    texts = {path: path.read_text("utf-8") for path in paths}
    said = {path: text for path, text in texts.items() if "python -m" in text}  # parsing all of them takes seconds
    return [command for path, text in said.items() for command in _of(path, in_messages(ast.parse(text)))]


def code_spans(text: str) -> Iterator[str]:
    """Yield what stands between backticks outside code blocks."""
    for line in text.splitlines():
        if not line.startswith("    "):
            yield from re.findall(r"`([^`]+)`", line)


def expand_braces(text: str) -> list[str]:
    """Return ``a_x`` and ``b_x`` for ``{a,b}_x``."""
    match = re.search(r"\{([^}]*)\}", text)
    if match is None:
        return [text]
    return [text[: match.start()] + part.strip() + text[match.end() :] for part in match[1].split(",")]


def _cleaned(line: str) -> str:
    return re.split(r"\s+#\s|\s{2,}", line.strip().removeprefix("$ "))[0]


def _of(path: Path, commands: list[str]) -> list[Command]:
    return [Command(text, path.relative_to(ROOT).as_posix()) for text in commands]
