"""TinySAM against the official implementation: the same weights, the same image, the largest differences.

    python -m bench.tinysam_parity                              # against the recorded tensors in tests/golden
    python -m bench.tinysam_parity --official CHECKOUT          # beside the official code, every element compared
    python -m bench.tinysam_parity --official CHECKOUT --record # and record its tensors

CHECKOUT is a clone of github.com/xinghaochen/TinySAM; its code is not part of this project. Weights are drawn tensor
by tensor from a generator named after the official key, so that anyone can make the same state dict again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine.models.decoder import NUM_MASK_TOKENS, decode_masks
from engine.models.prompts import DensePositions, Prompts, embed_prompts, no_mask_embedding
from engine.models.registry import build_model
from engine.models.weights import load_weights
from engine.seeding import numpy_generator

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "tinysam_parity.npz"
TOLERANCE = 1e-5
SEED = 42
IMAGE_PX = 1024
POINTS = ((300.0, 420.5), (811.0, 77.0))
LABELS = (1, 0)
# Samples kept of each output: every 16th channel and every 8th cell of the features, every 16th pixel of the masks.
STRIDES = {"features": (1, 16, 8, 8), "prompt_free": (1, 1, 16, 16), "points": (1, 1, 16, 16)}


def make_tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    """Return the weights of the official ``key``: scaled so that every layer's output stays near unit size."""
    rng = numpy_generator(SEED, "parity", key)
    if key.endswith("num_batches_tracked"):
        return torch.tensor(100)
    if key.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif key.endswith(("running_mean", "bias")):
        values = 0.1 * rng.standard_normal(shape)
    elif len(shape) == 1:
        values = 1.0 + 0.1 * rng.standard_normal(shape)
    elif key.endswith(("attention_biases", "positional_encoding_gaussian_matrix")) or shape[0] == 1:
        values = rng.standard_normal(shape)
    else:
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def make_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return a whole state dict under official keys."""
    return {key: make_tensor(key, shape) for key, shape in shapes.items()}


def make_image() -> Tensor:
    """Return the image (1, 3, 1024, 1024), float32 in [0, 1]."""
    rng = numpy_generator(SEED, "parity", "image")
    return torch.from_numpy(rng.random((1, 3, IMAGE_PX, IMAGE_PX), dtype=np.float32))


@torch.no_grad()
def run_ours(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return features, and all four masks without and with points, of our TinySAM loaded from an official layout."""
    model = build_model("tinysam", size="5m", seed=0).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "official_layout.pth"
        torch.save(make_state(shapes), path)
        load_weights(model, path, strict=True)
    features = model.encode(make_image())
    positions = DensePositions()(model.prompt_encoder, grid_hw=tuple(features.shape[-2:]))
    sparse = embed_prompts(
        model.prompt_encoder, Prompts(torch.tensor([POINTS]), torch.tensor([LABELS])), image_hw=(IMAGE_PX, IMAGE_PX)
    )
    dense = no_mask_embedding(model.prompt_encoder)
    outputs = {"features": features}
    for name, sparse_BTC, dense_BChw in (("prompt_free", None, None), ("points", sparse, dense)):
        outputs[name], _ = decode_masks(
            model.mask_decoder,
            features,
            positions_1Chw=positions,
            sparse_BTC=sparse_BTC,
            dense_BChw=dense_BChw,
            num_masks=NUM_MASK_TOKENS,
        )
    return outputs


@torch.no_grad()
def run_official(checkout: Path) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """Return the same outputs of the official code at ``checkout``, and the shapes of its state dict."""
    model = _build_official(checkout)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    model.load_state_dict(make_state(shapes))
    # Their eval() caches the attention biases; loading does not refresh the cache, another train() and eval() does.
    model.train()
    model.eval()
    features = model.image_encoder(make_image())
    points = (torch.tensor([POINTS]), torch.tensor([LABELS]))
    sparse, dense = model.prompt_encoder(points=points, boxes=None, masks=None)
    outputs = {"features": features}
    for name, sparse_BTC, dense_BChw in (
        ("prompt_free", sparse[:, :0], torch.zeros_like(dense)),
        ("points", sparse, dense),
    ):
        outputs[name], _ = model.mask_decoder.predict_masks(
            image_embeddings=features,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse_BTC,
            dense_prompt_embeddings=dense_BChw,
        )
    return outputs, shapes


def _build_official(checkout: Path) -> nn.Module:
    # The code was written for a timm that had its layers under another name.
    for old, new in (("timm.models.layers", "timm.layers"), ("timm.models.registry", "timm.models._registry")):
        sys.modules[old] = importlib.import_module(new)
    sys.path.insert(0, str(checkout))
    return importlib.import_module("tinysam").sam_model_registry["vit_t"]()


def sample(outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return what is recorded: strided samples of each output, and its mean and standard deviation by channel."""
    rows: dict[str, np.ndarray] = {}
    for name, tensor in outputs.items():
        rows[name] = tensor[tuple(slice(None, None, stride) for stride in STRIDES[name])].numpy()
        rows[f"{name}_mean"] = tensor.double().mean(dim=(0, 2, 3)).numpy()
        rows[f"{name}_std"] = tensor.double().std(dim=(0, 2, 3)).numpy()
    return rows


def golden_shapes(path: Path = GOLDEN) -> dict[str, tuple[int, ...]]:
    """Return key -> shape of the official state dict, as recorded."""
    with np.load(path) as golden:
        return {key: tuple(shape) for key, shape in json.loads(str(golden["shapes"])).items()}


def differences_from_golden(path: Path = GOLDEN) -> dict[str, float]:
    """Return the largest absolute difference of each recorded quantity from ours."""
    ours = sample(run_ours(golden_shapes(path)))
    with np.load(path) as golden:
        return {name: float(np.abs(ours[name] - golden[name]).max()) for name in ours}


def differences_from_official(checkout: Path, *, record: bool) -> dict[str, float]:
    """Return the largest absolute difference of each whole output; optionally record the official ones."""
    official, shapes = run_official(checkout)
    ours = run_ours(shapes)
    if record:
        np.savez_compressed(GOLDEN, shapes=np.array(json.dumps(shapes)), **sample(official))
    return {name: float((ours[name] - official[name]).abs().max()) for name in official}


def main() -> int:
    """Print the differences; the exit code is 1 where one is beyond 1e-5."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="a clone of github.com/xinghaochen/TinySAM")
    parser.add_argument("--record", action="store_true", help="record the official tensors")
    arguments = parser.parse_args()
    if arguments.official is None:
        differences = differences_from_golden()
    else:
        differences = differences_from_official(arguments.official, record=arguments.record)
    for name, difference in differences.items():
        print(f"{name:18s} max abs difference {difference:.2e}")
    worst = max(differences.values())
    print(f"{'worst':18s} {worst:.2e}  {'ok' if worst <= TOLERANCE else 'TOO LARGE'} (limit {TOLERANCE:.0e})")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
