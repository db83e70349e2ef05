"""Errors in the method that once left its tests green, or that nobody may make unseen: each must turn a test red."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from bench.mutation.operators import Mutant


@dataclass(frozen=True)
class KnownError:
    """``right`` stands exactly once in ``path``; ``wrong`` in its place is the error that ``name`` tells."""

    name: str
    path: str
    right: str
    wrong: str

    @property
    def package(self) -> str:
        """The package below ``engine`` that it is in."""
        return self.path.split("/")[1]

    def mutant(self, root: Path) -> Mutant:
        """Return the module with the error in it; ``ValueError`` where the right line has changed."""
        text = (root / self.path).read_text(encoding="utf-8")
        if text.count(self.right) != 1:
            raise ValueError(f"{self.path} has {self.right!r} {text.count(self.right)} times, once is expected")
        line = text[: text.index(self.right)].count("\n") + 1
        tree = ast.parse(text.replace(self.right, self.wrong), filename=self.path)
        return Mutant(self.path, line, self.name, self.right, self.wrong, tree)


KNOWN: tuple[KnownError, ...] = (
    KnownError(
        "divergence weighed w instead of 1 - w",
        "engine/distillation/mutual.py",
        "(1 - weight) * divergence",
        "weight * divergence",
    ),
)
