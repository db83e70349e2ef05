"""What training of shared updates and each site's own experts costs. Torch-free."""

from __future__ import annotations

import math
from dataclasses import replace

from engine.planning.stage_costs import federated_training
from engine.planning.workload import StageCost, Workload


def personal_training(work: Workload) -> StageCost:
    """Federated training, and after it in each round the experts' epochs: a training pass and the teacher's forward."""
    shared, config = federated_training(work), work.config.federation
    share = config.num_asked(len(work.sources)) / len(work.sources)
    epochs = share * config.rounds * work.config.experts.epochs
    images = round(epochs * sum(site.num_train for site in work.sources))
    steps = round(epochs * sum(math.ceil(site.num_train / config.batch_size) for site in work.sources))
    taught = work.pass_s(work.student) if work.config.experts.distillation_weight else 0.0
    seconds = images * (work.train_s(work.student) + taught)
    return replace(
        shared,
        steps=shared.steps + steps,
        images=shared.images + images,
        seconds=shared.seconds + work.by_the_sites(seconds, [site.num_train for site in work.sources]),
        detail=f"{shared.detail}, then each site's experts",
    )
