"""The pre-trainings of the diffusion parts at toy size: real phantoms, real classes, a few steps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.data.phantoms import TASKS
from engine.errors import UserError
from engine.generation.backbone import load_backbone
from engine.generation.controlnet import load_controlnet
from engine.pretraining import corpus, jobs
from engine.pretraining.contact_sheet import write_contact_sheet
from engine.pretraining.loop import Budget, MovingAverage, pretrain
from engine.pretraining.settings import Settings
from engine.pretraining.vae import VaePretraining, principal_components, reconstruction_loss

TOY = Settings(seed=4, image_px=64, images_per_task=6, held_out_per_task=2, bf16=False)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("cache")
    patch.setenv("DSFEDMED_CACHE", str(folder))
    yield folder
    patch.undo()


def test_the_corpus_is_rendered_once_and_held_out_phantoms_are_others(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, held_out = TOY.training_corpora(), TOY.held_out_corpora()
    assert list(training) == list(TASKS)
    for task, corpora in training.items():
        assert corpora.images_NHW3.shape == (6, 64, 64, 3)
        assert corpora.masks_NKHW.shape == (6, len(TASKS[task].classes), 64, 64)
        assert not any(np.array_equal(held_out[task].images_NHW3[0], image) for image in corpora.images_NHW3)
    written = {path: path.stat().st_mtime_ns for path in (cache / "corpus").iterdir()}
    assert not [path for path in written if "partial" in path.name]
    corpus.load_corpora(image_px=64, count=6, seed=TOY.corpus_seed)
    assert {path: path.stat().st_mtime_ns for path in (cache / "corpus").iterdir()} == written
    monkeypatch.setattr(corpus, "drawing_version", lambda: "another")
    corpus.load_corpora(image_px=64, count=6, seed=TOY.corpus_seed)
    assert len(list((cache / "corpus").iterdir())) == len(written) + 2 * len(TASKS), "other code draws other phantoms"


@pytest.mark.parametrize(
    ("budget", "step", "wall_s", "progress"),
    [
        (Budget(steps=10), 5, 1e9, 0.5),
        (Budget(minutes=2), 10**9, 30, 0.25),
        (Budget(steps=10, minutes=2), 1, 60, 0.5),
        (Budget(steps=10), 11, 0, 1.0),
    ],
)
def test_budgets(budget: Budget, step: int, wall_s: float, progress: float) -> None:
    assert budget.progress(step=step, wall_s=wall_s) == progress


@pytest.mark.slow
def test_interrupted_pretraining_equals_uninterrupted(tmp_path: Path) -> None:
    whole = VaePretraining(TOY)
    history = pretrain(whole, budget=Budget(steps=3), folder=tmp_path / "whole", resume=False, log=_silent)

    class Stopped(Exception):
        pass

    parts = VaePretraining(TOY)
    loss = parts.loss

    def stop_at_two(step: int) -> torch.Tensor:
        if step == 2:
            raise Stopped
        return loss(step)

    parts.loss = stop_at_two  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        pretrain(parts, budget=Budget(steps=3), folder=tmp_path / "parts", resume=True, save_every_s=0.0, log=_silent)
    resumed = VaePretraining(TOY)
    again = pretrain(resumed, budget=Budget(steps=3), folder=tmp_path / "parts", resume=True, log=_silent)
    assert again.step == history.step == 3
    assert again.measures == history.measures
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[key]), key


def test_the_moving_average_follows_and_swaps() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
        average = MovingAverage(model, decay=0.5)
        model.weight.fill_(8.0)
        average.update(model, step=100)
        average.swap(model)
        assert model.weight.item() == 4.0
        average.swap(model)
        assert model.weight.item() == 8.0
        average.copy_into(model)
        assert model.weight.item() == 4.0


def test_a_diverged_pretraining_stops_and_names_the_step(tmp_path: Path) -> None:
    recipe = VaePretraining(TOY)
    with torch.no_grad():
        recipe.model.decoder.conv_out.bias.fill_(math.nan)
    with pytest.raises(UserError, match="vae is nan at step 0") as error:
        pretrain(recipe, budget=Budget(steps=1), folder=tmp_path, resume=False, log=_silent)
    assert error.value.code == "pretrain.diverged"


def test_components_are_whitened_and_the_loss_is_zero_for_a_perfect_copy() -> None:
    rng = np.random.default_rng(0)
    images = np.cumsum(rng.normal(size=(8, 3, 32, 32)), axis=-1).astype(np.float32)
    weight, bias = principal_components(images, 5)
    latent = torch.nn.functional.conv2d(torch.from_numpy(images), weight, bias, stride=8)
    rows = latent.permute(1, 0, 2, 3).reshape(5, -1)
    assert torch.allclose(torch.cov(rows), torch.eye(5), atol=1e-2)
    image = torch.from_numpy(images)
    assert reconstruction_loss(image, image).item() == 0.0
    assert reconstruction_loss(image + 1, image).item() > 0.5


@pytest.mark.slow
def test_the_three_diffusion_jobs_build_on_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for recipe in (jobs.UnetPretraining, jobs.ControlnetPretraining):
        monkeypatch.setattr(recipe, "batch_size", 4)
    budget = Budget(steps=2)
    with pytest.raises(UserError) as error:
        jobs.run_job("unet", budget=budget, settings=TOY, resume=False, output=tmp_path, log=_silent)
    assert error.value.code == "generator.backbone_absent"
    for name in ("vae", "unet", "controlnet"):
        history = jobs.run_job(name, budget=budget, settings=TOY, resume=False, output=tmp_path, log=_silent)
        assert history.step == 2
        assert all(math.isfinite(value) for value in history.measures.values())
    cards = [tmp_path / "ldm-mini" / "vae", tmp_path / "ldm-mini", tmp_path / "controlnet-mini"]
    for folder in cards:
        text = (folder / "model_card.md").read_text(encoding="utf-8")
        assert "| Steps | 2 of" in text
        assert "| Seed | 4 |" in text
    assert 0.05 < load_backbone(tmp_path / "ldm-mini").vae.config.scaling_factor < 20
    assert load_controlnet(tmp_path / "controlnet-mini").config.block_out_channels
    sheet = write_contact_sheet(tmp_path / "sheet.png", weights=tmp_path, columns=1, image_px=32, steps=1)
    assert sheet.stat().st_size > 1000


def test_unknown_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        jobs.run_job("gan", budget=Budget(steps=1), settings=TOY, resume=False, output=tmp_path)
    assert error.value.code == "pretrain.unknown"


def _silent(_text: str) -> None:
    """Take a line of the log and show it nowhere."""
