"""What lies between the sites' masks and the pool: sharing, mask pictures, the list of pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.config import DataConfig
from engine.data.phantoms import random_mask
from engine.distillation.pool import decode_mask, encode_mask, synthetic_pool
from engine.errors import UserError
from engine.generation.mask_sharing import share_masks
from engine.seeding import numpy_generator
from engine.stages.synthetic_set import read_samples, write_samples
from engine.types import SyntheticSample


def _masks(task: str = "fundus") -> np.ndarray:
    return np.stack([random_mask(task, index=i, image_px=64, seed=3) for i in range(6)])


def _share(masks: np.ndarray, mode: str) -> np.ndarray:
    return share_masks(masks, mode=mode, rng=numpy_generator(1, "sharing"))


def test_real_masks_are_shared_as_they_are():
    masks = _masks()
    np.testing.assert_array_equal(_share(masks, "real"), masks)


def test_deformed_masks_differ_but_stay_masks():
    masks = _masks()
    shared = _share(masks, "deformed")
    assert shared.shape == masks.shape
    assert shared.dtype == np.uint8
    assert set(np.unique(shared)) <= {0, 1}
    assert all((a != b).any() for a, b in zip(shared, masks, strict=True))
    assert (shared[:, 1] <= shared[:, 0]).all(), "the cup stays inside the disc"
    assert all(mask.any() for mask in shared)
    area = shared.mean() / masks.mean()
    assert 0.5 < area < 1.6


def test_a_mask_at_the_edge_is_deformed_too():
    corner = np.zeros((40, 1, 128, 128), np.uint8)
    corner[:, :, :6, :6] = corner[:, :, 0, :12] = 1
    shared = _share(corner, "deformed")
    assert all(mask.any() for mask in shared)
    assert not any(np.array_equal(mask, corner[0, :, :, ::-1]) for mask in shared), "a mirrored outline is its own"


def test_deformation_is_reproducible():
    np.testing.assert_array_equal(_share(_masks(), "deformed"), _share(_masks(), "deformed"))


@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_mask_pictures_carry_every_class(num_classes, tmp_path):
    rng = numpy_generator(2, "planes", num_classes)
    mask = (rng.random((num_classes, 20, 30)) < 0.4).astype(np.uint8)
    encode_mask(mask).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        np.testing.assert_array_equal(decode_mask(picture, num_classes=num_classes), mask)


def test_too_many_classes_for_a_mask_picture():
    with pytest.raises(UserError) as caught:
        encode_mask(np.zeros((4, 8, 8), dtype=np.uint8))
    assert caught.value.code == "data.too_many_classes"


def _sample(run_dir: Path, index: int) -> SyntheticSample:
    folder = run_dir / "samples" / "site_a"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 32, 3), 40 * index, dtype=np.uint8)).save(folder / f"{index:05d}.png")
    mask = np.zeros((1, 64, 64), dtype=np.uint8)
    mask[:, : 8 * (index + 1)] = 1
    encode_mask(mask).save(folder / f"{index:05d}_mask.png")
    relative = Path("samples") / "site_a"
    return SyntheticSample(
        sample_id=f"site_a/{index:05d}",
        site="site_a",
        index=index,
        seed=index,
        source_mask=f"site_a mask {index}",
        mask_sharing="real",
        image_path=relative / f"{index:05d}.png",
        mask_path=relative / f"{index:05d}_mask.png",
    )


def test_the_pool_reads_pairs_at_the_models_size(tmp_path):
    samples = [_sample(tmp_path, index) for index in range(3)]
    write_samples(tmp_path, samples)
    assert read_samples(tmp_path) == samples
    pool = synthetic_pool(samples, run_dir=tmp_path, data=DataConfig(image_px=64), num_classes=1)
    assert pool.names == ("site_a/00000", "site_a/00001", "site_a/00002")
    image, mask = pool.batch(np.array([2, 0]))
    assert image.shape == (2, 3, 64, 64)
    np.testing.assert_allclose(image[0], 80 / 255, atol=1e-6)
    assert mask[0, 0].sum() == 24 * 64
    assert mask[1, 0].sum() == 8 * 64
