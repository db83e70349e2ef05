"""A method in one file: FedAvg, then a new stage that makes a new model of the student. Torch comes with the work.

``DSFEDMED_METHODS=tests.integration.toy_method`` registers it in every process.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from engine.methods.catalogue import KindSpec, MethodSpec, ModelSpec, StageSpec, register
from engine.methods.shared_stages import EVALUATION, EXPORT, FEDERATED_TRAINING

if TYPE_CHECKING:
    from engine.planning.workload import StageCost, Workload
    from engine.stages.context import RunContext

PAUSE_S = 0.05
STEP_SIZE = 1e-4

TREMBLING = StageSpec(
    "trembling",
    "Trembling",
    "The server adds a little noise to the student, epoch by epoch.",
    entry=f"{__name__}:Trembling",
    cost=f"{__name__}:cost_of_trembling",
    reads=("foundation",),
    makes=(
        ModelSpec(
            "trembled_student",
            "TinySAM, trembled",
            role="student",
            architecture="student",
            compared_with=("fedavg_student",),
        ),
    ),
    keeps=("tremors",),
    sends=(KindSpec("tremor", "tremors", "The noise that was added last; no image."),),
)
register(
    MethodSpec(
        "toy",
        "A toy",
        "no paper",
        (FEDERATED_TRAINING, TREMBLING, EVALUATION, EXPORT),
        overlay={"foundation.epochs": 40},
    )
)


def cost_of_trembling(work: Workload) -> StageCost:
    """As good as nothing, and one small message down to each site."""
    from engine.planning.workload import StageCost

    epochs = work.config.foundation.epochs
    return StageCost(
        epochs,
        0,
        epochs * PAUSE_S,
        work.base_gib(),
        f"{epochs} epochs",
        work.at_each_site({("down", "tremor"): 8}),
        ("Nothing that a site has trembles.",),
    )


class Trembling:
    """Adds ``STEP_SIZE`` times normal noise to every parameter in each of ``foundation.epochs``."""

    name = "trembling"

    def run(self, context: RunContext) -> None:
        """Save ``trembled_student``; the noise of an epoch depends on the seed and the epoch alone."""
        import torch

        from engine.seeding import torch_generator
        from engine.types import Traffic

        model = context.load_model("student", "fedavg_student")
        state: dict[str, Any] = context.checkpoints.load(self.name) or {"epoch": 0, "weights": model.state_dict()}
        model.load_state_dict(state["weights"])
        epochs = context.config.foundation.epochs
        for epoch in range(state["epoch"] + 1, epochs + 1):
            draws = torch_generator(context.config.seed, "tremble", epoch)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(STEP_SIZE * torch.randn(weight.shape, generator=draws))
            context.reporter.metric("noise", STEP_SIZE, step=epoch)
            context.checkpoints.save(self.name, {"epoch": epoch, "weights": model.state_dict()})
            context.reporter.progress(epoch, epochs, message=f"epoch {epoch}")
            time.sleep(PAUSE_S)
        (context.run_dir / "tremors").mkdir(exist_ok=True)
        (context.run_dir / "tremors" / "count.txt").write_text(str(epochs))
        context.reporter.traffic(Traffic("a", "down", "tremor", 8))
        context.save_model(model, "trembled_student")
