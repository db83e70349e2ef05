"""How long a run's model takes for one image in PyTorch: ``python -m engine.evaluation.torch_speed < REQUEST``.

A process of its own, for tables are filled without torch. The time of a pass does not depend on what was learnt, so the
model is the run's own kind, its updates and experts included, with random weights.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from engine.config import RunConfig, parse_stored_config
from engine.models.roles import build_role


def seconds_of_passes(config: RunConfig, *, num_classes: int, passes: int) -> list[float]:
    """Return the wall seconds of each of ``passes`` of the student over one image, float32, on the CPU, in eval mode.

    From an image (1, 3, S, S) in memory to logits, S = ``data.image_px``: what is timed of the exported model, too.
    """
    model = build_role(config, "student", num_classes=num_classes).eval()
    image_13SS = torch.zeros(1, 3, config.data.image_px, config.data.image_px)
    found = []
    with torch.inference_mode():
        for _ in range(passes):
            started = time.perf_counter()
            model(image_13SS)
            found.append(time.perf_counter() - started)
    return found


def main() -> None:
    """Read one JSON object (config, num_classes, passes) and print the seconds as JSON."""
    request = json.load(sys.stdin)
    config = parse_stored_config(request["config"])
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    json.dump(seconds_of_passes(config, num_classes=request["num_classes"], passes=request["passes"]), sys.stdout)


if __name__ == "__main__":
    main()
