"""The compared systems by name; each is a list of stages."""

from __future__ import annotations

from dataclasses import dataclass

from engine.methods.dsfedmed import DSFEDMED_STAGES
from engine.methods.fedtinysam import FEDTINYSAM_STAGES
from engine.stages.context import Stage


@dataclass(frozen=True)
class Method:
    """A system: its stages run in order, each resumable on its own."""

    name: str
    describe: str
    stages: tuple[Stage, ...]


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("dsfedmed", "Federated dual distillation (arXiv 2601.16073)", DSFEDMED_STAGES),
        Method("fedtinysam", "TinySAM by FedAvg alone", FEDTINYSAM_STAGES),
    )
}
