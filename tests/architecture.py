"""The project's rules of structure as functions over syntax trees; ``test_architecture.py`` applies them.

Each ``find_*`` takes modules and returns one line for each violation.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from import_rules import ALLOWED, TORCH_FREE

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}

GENERATOR_MAKERS = ("torch.Generator", "np.random.default_rng", "numpy.random.default_rng")
GLOBAL_SEEDS = ("np.random.seed", "numpy.random.seed", "random.seed", "torch.seed")


@dataclass(frozen=True)
class Module:
    """One source file: dotted name, path from the repository's root, text and syntax tree."""

    name: str
    path: str
    text: str
    tree: ast.Module


def make_module(path: str, text: str) -> Module:
    """Return the module of a file at ``path`` (relative, with slashes) with content ``text``."""
    parts = list(Path(path).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return Module(".".join(parts), path, text, ast.parse(text, filename=path))


def read_modules(root: Path, packages: tuple[str, ...]) -> list[Module]:
    """Return every module below the named folders of ``root``."""
    paths = sorted(path for package in packages for path in (root / package).rglob("*.py"))
    return [make_module(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def starts_with(name: str, prefix: str) -> bool:
    """Return whether a dotted name is ``prefix`` or lies below it."""
    return name == prefix or name.startswith(f"{prefix}.")


def imports_of(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of every import in the file, those inside functions included."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                yield node.lineno, "." * node.level + source
            else:
                yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def find_long_files(modules: list[Module]) -> list[str]:
    """Return the files of more than 400 lines."""
    counts = {module.path: len(module.text.splitlines()) for module in modules}
    return [f"{path}: {count} lines" for path, count in counts.items() if count > MAX_FILE_LINES]


def find_tests_of_one_name(modules: list[Module]) -> list[str]:
    """Return the test files that share their name with one of another folder: pytest can collect only one of them."""
    first: dict[str, str] = {}
    tests = [module.path for module in modules if Path(module.path).name.startswith("test_")]
    earlier = {path: first.setdefault(Path(path).name, path) for path in tests}
    return [f"{path}: called as {other}" for path, other in earlier.items() if other != path]


def find_long_functions(modules: list[Module]) -> list[str]:
    """Return the functions of more than 60 lines, docstring included."""
    found = []
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > MAX_FUNCTION_LINES:
                    found.append(f"{module.path}:{node.lineno}: {node.name} has {count} lines")
    return found


def find_vague_names(modules: list[Module]) -> list[str]:
    """Return files and folders whose name says nothing."""
    return [module.path for module in modules if VAGUE_NAMES & set(Path(module.path).with_suffix("").parts)]


def find_missing_future(modules: list[Module]) -> list[str]:
    """Return the modules with code but without ``from __future__ import annotations``."""
    return [
        module.path
        for module in modules
        if Path(module.path).name != "__init__.py" and (0, "__future__.annotations") not in _without_lines(module)
    ]


def find_wrong_imports(modules: list[Module], *, allowed: Mapping[str, tuple[str, ...]] = ALLOWED) -> list[str]:
    """Return the imports between our own modules that the table does not allow."""
    ours = {name.split(".")[0] for name in allowed} | {"tests"}
    found = []
    for module in modules:
        owner = max((name for name in allowed if starts_with(module.name, name)), key=len, default=None)
        for line, name in imports_of(module):
            if name.startswith("."):
                found.append(f"{module.path}:{line}: relative import {name}")
            elif name.split(".")[0] in ours and not _may_import(owner, name, allowed=allowed):
                found.append(f"{module.path}:{line}: {module.name} must not import {name}")
    return found


def find_foreign(modules: list[Module], *, package: str, only_in: tuple[str, ...]) -> list[str]:
    """Return the imports of an outside ``package`` anywhere but below ``only_in``."""
    return [
        f"{module.path}:{line}: imports {name}"
        for module in modules
        if not any(starts_with(module.name, place) for place in only_in)
        for line, name in imports_of(module)
        if starts_with(name, package)
    ]


def find_torch(modules: list[Module]) -> list[str]:
    """Return the imports of torch in modules that must do without it."""
    kept = [module for module in modules if any(starts_with(module.name, name) for name in TORCH_FREE)]
    return find_foreign(kept, package="torch", only_in=())


def find_global_randomness(modules: list[Module]) -> list[str]:
    """Return where process-wide random state is set outside ``fork_rng``, or a generator made outside seeding."""
    found = []
    for module in modules:
        if module.name == "engine.seeding":
            continue
        forked = _lines_under_fork(module.tree)
        for node, name in _calls(module.tree):
            seeds = name in GLOBAL_SEEDS or (name.endswith("manual_seed") and node.lineno not in forked)
            if seeds or name.endswith("manual_seed_all"):
                found.append(f"{module.path}:{node.lineno}: {name} changes process-wide state")
            elif name in GENERATOR_MAKERS:
                found.append(f"{module.path}:{node.lineno}: {name}, instead of a named one from engine.seeding")
        found += [
            f"{module.path}:{line}: imports random"
            for line, name in imports_of(module)
            if name == "random" or name.startswith("random.")
        ]
    return found


def find_pickling(modules: list[Module]) -> list[str]:
    """Return where pickles are written or read: torch.save, torch.load without weights_only, pickle itself."""
    found = []
    for module in modules:
        for node, name in _calls(module.tree):
            keywords = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
            unsafe = name == "torch.load" and keywords.get("weights_only") is not True
            unsafe = unsafe or (name.endswith(".load") and keywords.get("allow_pickle") is True)
            if unsafe or name == "torch.save" or name.split(".")[0] in {"pickle", "cloudpickle", "joblib", "dill"}:
                found.append(f"{module.path}:{node.lineno}: {name} opens or writes a pickle")
    return found


def find_imports_of(modules: list[Module], *, prefix: str) -> list[str]:
    """Return the imports of ``prefix`` from outside of it."""
    return find_foreign(modules, package=prefix, only_in=(prefix,))


def _may_import(owner: str | None, name: str, *, allowed: Mapping[str, tuple[str, ...]]) -> bool:
    if owner is None:
        return False
    return any(starts_with(name, prefix) for prefix in (owner, *allowed[owner]))


def _calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Yield every call with its dotted name (calls on other expressions have none)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts = []
            target = node.func
            while isinstance(target, ast.Attribute):
                parts.append(target.attr)
                target = target.value
            if isinstance(target, ast.Name):
                yield node, ".".join([target.id, *reversed(parts)])


def _lines_under_fork(tree: ast.AST) -> set[int]:
    """Return the lines inside ``with torch.random.fork_rng(...)``, which puts the state back."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any("fork_rng" in ast.unparse(item.context_expr) for item in node.items):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def _without_lines(module: Module) -> set[tuple[int, str]]:
    return {(0, name) for _, name in imports_of(module)}
