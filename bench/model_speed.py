"""Parameters of every model, and images per second of the mini sizes on this machine's CPU.

    python -m bench.model_speed [--threads 2] [--batch 8] [--repeats 5]

A figure is the fastest of the repeats: other work on the machine only ever makes a step slower.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from engine.models.registry import build_model, model_sizes
from engine.seeding import torch_generator

SIDES_PX = (128, 256)


def images_per_second(step: Callable[[], None], *, batch: int, repeats: int) -> float:
    """Return ``batch`` over the shortest wall time of ``step``, after one step to warm up."""
    step()
    walls = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        walls.append(time.perf_counter() - start)
    return batch / min(walls)


def measure(name: str, *, image_px: int, batch: int, repeats: int) -> tuple[float, float]:
    """Return training (forward, backward, Adam) and inference images per second of a mini model."""
    model = build_model(name, size="mini", seed=0).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    images = torch.rand(batch, 3, image_px, image_px, generator=torch_generator(0, "speed"))
    images = images.contiguous(memory_format=torch.channels_last)

    def train() -> None:
        optimiser.zero_grad()
        model(images).square().mean().backward()
        optimiser.step()

    @torch.no_grad()
    def infer() -> None:
        model(images)

    training = images_per_second(train, batch=batch, repeats=repeats)
    model.eval()
    return training, images_per_second(infer, batch=batch, repeats=repeats)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'model':8s} {'size':6s} {'native px':>9s} {'stride':>6s} {'parameters':>12s}")
    for row in model_sizes():
        print(f"{row.name:8s} {row.size:6s} {row.image_px:9d} {row.feature_stride:6d} {row.parameters:12,d}")
    print(f"\nbatch {arguments.batch}, {arguments.threads} threads, images per second")
    print(f"{'mini':8s} {'px':>4s} {'train':>8s} {'infer':>8s}")
    for name in ("tinysam", "sam", "unet"):
        for side in SIDES_PX:
            training, inference = measure(name, image_px=side, batch=arguments.batch, repeats=arguments.repeats)
            print(f"{name:8s} {side:4d} {training:8.1f} {inference:8.1f}")


if __name__ == "__main__":
    main()
