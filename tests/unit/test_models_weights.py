"""Weights in and out: safetensors, foreign layouts, new heads, other image sizes, checksums, damaged files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from engine.errors import UserError
from engine.models.assets import REGISTRY_PATH, file_sha256, list_assets, register_local, resolve
from engine.models.registry import build_model
from engine.models.weights import LoadReport, load_weights, save_weights
from engine.seeding import torch_generator


def random_image(side: int) -> torch.Tensor:
    return torch.rand(1, 3, side, side, generator=torch_generator(0, "image"))


def official_tinyvit_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Our state under the names of TinySAM's own checkpoints, with the classifier that they carry."""
    rules = (
        (r"trunk\.patch_embed\.conv1\.", "patch_embed.seq.0."),
        (r"trunk\.patch_embed\.conv2\.", "patch_embed.seq.2."),
        (r"trunk\.stages\.(\d)\.blocks\.", r"layers.\1.blocks."),
        (r"\.conv\.weight$", ".c.weight"),
    )
    state = {}
    for key, tensor in model.state_dict().items():
        name = re.sub(
            r"trunk\.stages\.(\d)\.downsample\.", lambda match: f"layers.{int(match[1]) - 1}.downsample.", key
        )
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        state[name] = tensor
    extra = {"norm_head.weight": (8,), "norm_head.bias": (8,), "head.weight": (10, 8), "head.bias": (10,)}
    return state | {f"image_encoder.{key}": torch.zeros(shape) for key, shape in extra.items()}


@pytest.mark.parametrize("name", ["sam", "msa", "tinysam", "unet", "nnunet"])
@pytest.mark.parametrize("half", [False, True])
def test_safetensors_round_trip(name: str, half: bool, tmp_path: Path) -> None:
    model = build_model(name, size="mini", seed=1).to(memory_format=torch.channels_last)
    path = save_weights(model, tmp_path / "model.safetensors", half=half)
    other = build_model(name, size="mini", seed=2)
    assert load_weights(other, path, strict=True) == LoadReport()
    buffers = {key for key, _ in model.named_buffers()}
    for key, tensor in model.state_dict().items():
        exact = not half or key in buffers
        torch.testing.assert_close(
            other.state_dict()[key], tensor, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-6
        )
    assert list(tmp_path.iterdir()) == [path]


def test_official_tinyvit_names_load_and_eval_is_not_stale(tmp_path: Path) -> None:
    source = build_model("tinysam", size="mini", seed=1).eval()
    for key, parameter in source.named_parameters():
        if key.endswith("attention_biases"):
            torch.nn.init.normal_(parameter, generator=torch_generator(0, key))
    path = tmp_path / "official.pth"
    torch.save({"model": official_tinyvit_state(source)}, path)
    target = build_model("tinysam", size="mini", seed=2).eval()
    with torch.no_grad():
        target(random_image(64))
        report = load_weights(target, path, strict=True)
        assert torch.equal(target(random_image(64)), source(random_image(64)))
    assert len(report.dropped) == 4
    assert "image_encoder.layers.2.downsample.conv2.c.weight" in report.remapped
    assert not report.missing and not report.unexpected


def test_a_new_head_is_reported_and_nothing_else_may_be_missing(tmp_path: Path) -> None:
    one = build_model("tinysam", size="mini", seed=1)
    path = save_weights(one, tmp_path / "one.safetensors")
    two = build_model("tinysam", size="mini", num_classes=2, seed=2)
    head = two.seg1.weight.clone()
    assert load_weights(two, path).missing == ("seg1.bias", "seg1.weight")
    assert torch.equal(two.seg1.weight, head)
    assert torch.equal(two.mask_decoder.iou_token.weight, one.mask_decoder.iou_token.weight)
    with pytest.raises(UserError, match="do not fit"):
        load_weights(two, path, strict=True)
    with pytest.raises(UserError, match="do not fit"):
        load_weights(build_model("sam", size="mini", seed=0), path)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_classes_that_copy_the_mask_start_as_one_mask(tmp_path: Path, num_classes: int) -> None:
    path = save_weights(build_model("tinysam", size="mini", seed=1), tmp_path / "one.safetensors")
    several = build_model("tinysam", size="mini", num_classes=num_classes, seed=2).eval()
    load_weights(several, path)
    several.copy_mask_to_classes()
    with torch.no_grad():
        logits_BKhw = several(random_image(64))
    for class_index in range(1, num_classes):
        assert torch.allclose(logits_BKhw[:, class_index], logits_BKhw[:, 0], atol=1e-5)
    several(random_image(64))[:, 1].sum().backward()
    grads = [mlp.layers[0].weight.grad for mlp in several.mask_decoder.output_hypernetworks_mlps]
    assert grads[1] is not None and grads[1].abs().sum() > 0, "the second class has no weights of its own"


def test_a_head_of_other_classes(tmp_path: Path) -> None:
    path = save_weights(build_model("tinysam", size="mini", num_classes=3, seed=1), tmp_path / "three.safetensors")
    assert load_weights(build_model("tinysam", size="mini", seed=2), path).unexpected == ("seg1.bias", "seg1.weight")
    report = load_weights(build_model("tinysam", size="mini", num_classes=2, seed=2), path)
    assert report.missing == ("seg1.bias", "seg1.weight")


def test_the_authors_head_inside_the_decoder_is_found(tmp_path: Path) -> None:
    model = build_model("sam", size="mini", num_classes=2, seed=1)
    state = {re.sub(r"^seg1", "mask_decoder.seg1", key): tensor for key, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "authors.pth")
    other = build_model("sam", size="mini", num_classes=2, seed=2)
    assert load_weights(other, tmp_path / "authors.pth", strict=True).remapped == (
        "mask_decoder.seg1.weight",
        "mask_decoder.seg1.bias",
    )
    assert torch.equal(other.seg1.weight, model.seg1.weight)


@pytest.mark.parametrize("image_px", [64, 192])
def test_positions_are_resized_to_another_native_size(image_px: int, tmp_path: Path) -> None:
    model = build_model("sam", size="mini", seed=1).eval()
    for key, parameter in model.named_parameters():
        if "rel_pos" in key:
            torch.nn.init.normal_(parameter, std=0.5, generator=torch_generator(0, key))
    path = save_weights(model, tmp_path / "model.safetensors")
    other = build_model("sam", size="mini", image_px=image_px, seed=2).eval()
    report = load_weights(other, path, strict=True)
    # The absolute embedding, and the relative ones of the two global blocks; windows keep their size.
    assert len(report.resized) == 1 + 2 * 2
    with torch.no_grad():
        torch.testing.assert_close(other(random_image(image_px)), model(random_image(image_px)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".txt"])
def test_damaged_files_are_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_weights(build_model("tinysam", size="mini", seed=0), path)
    assert caught.value.code == "weights.unreadable"


class Payload:
    """What a hostile checkpoint would hold: unpickling it calls a function of the sender's choice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"weight": Payload(tmp_path / "ran")}, tmp_path / "hostile.pth")
    with pytest.raises(UserError) as caught:
        load_weights(build_model("tinysam", size="mini", seed=0), tmp_path / "hostile.pth")
    assert caught.value.code == "weights.unreadable"
    assert not (tmp_path / "ran").exists()


def test_values_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    for value in (1e6, float("nan")):
        model = build_model("unet", size="mini", seed=0)
        next(model.parameters()).data.flatten()[0] = value
        with pytest.raises(UserError) as caught:
            save_weights(model, tmp_path / "model.safetensors", half=True)
        assert caught.value.code == "weights.half_range"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSFEDMED_HOME", str(tmp_path / "home"))
    path = tmp_path / "assets" / "registry.json"
    (path.parent / "weights").mkdir(parents=True)
    shutil.copy(REGISTRY_PATH, path)
    return path


def test_registered_weights_resolve_until_they_are_damaged(registry: Path) -> None:
    path = registry.parent / "weights" / "mine.safetensors"
    save_weights(build_model("tinysam", size="mini", seed=0), path)
    asset = register_local(
        "mine", path=path, licence="Apache-2.0", made_by="python -m engine pretrain tinysam", registry=registry
    )
    assert asset.sha256 == file_sha256(path) and asset.bytes == path.stat().st_size
    assert resolve("mine", registry=registry) == path == resolve("mine.safetensors", registry=registry)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        resolve("mine", registry=registry)
    assert caught.value.code == "weights.checksum" and "pretrain tinysam" in caught.value.fix
    path.unlink()
    with pytest.raises(UserError) as caught:
        resolve("mine", registry=registry)
    assert caught.value.code == "weights.absent"
    with pytest.raises(UserError) as caught:
        resolve("nobody", registry=registry)
    assert caught.value.code == "weights.unknown"


def test_unverified_weights_need_a_checksum(registry: Path, tmp_path: Path) -> None:
    path = tmp_path / "home" / "weights" / "tinysam_42.3.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"as fetched")
    with pytest.raises(UserError) as caught:
        resolve("tinysam", registry=registry)
    assert caught.value.code == "weights.unverified"
    assert resolve(f"tinysam@sha256:{file_sha256(path)}", registry=registry) == path
    assert resolve("tinysam", sha256=file_sha256(path).upper(), registry=registry) == path
    with pytest.raises(UserError) as caught:
        resolve("tinysam", sha256="0" * 64, registry=registry)
    assert caught.value.code == "weights.checksum"


def test_the_shipped_registry_is_complete() -> None:
    document = json.loads(REGISTRY_PATH.read_text(encoding="utf-8"))
    assets = list_assets()
    assert {"sam-vit-b", "sam-vit-l", "tinysam", "mobile-sam"} <= {asset.name for asset in assets}
    assert len(assets) == len(document["assets"])
    for asset in assets:
        assert asset.licence
        assert (asset.url is None) != (asset.made_by is None)
        assert asset.sha256 is None or re.fullmatch("[0-9a-f]{64}", asset.sha256)
        if asset.made_by is not None:
            path = REGISTRY_PATH.parent / asset.file
            assert path.stat().st_size == asset.bytes and file_sha256(path) == asset.sha256


def test_kept_statistics_stay_while_the_model_trains(tmp_path: Path) -> None:
    model = build_model("tinysam", size="mini", seed=1)
    model.keeps_statistics = True
    before = {key: value.clone() for key, value in model.named_buffers()}
    weights = {key: value.clone() for key, value in model.named_parameters()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(random_image(64)).mean().backward()
    optimiser.step()
    assert all(torch.equal(value, before[key]) for key, value in model.named_buffers())
    scale = "image_encoder.trunk.patch_embed.conv1.bn.weight"
    assert not torch.equal(dict(model.named_parameters())[scale], weights[scale]), "BatchNorm's own scale must learn"
