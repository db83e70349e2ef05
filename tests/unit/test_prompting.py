"""A bundle that answers prompts: two graphs against one model, what is kept, and what a hostile or lost image does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.config import parse_config
from engine.data.prompt_maps import prompt_map
from engine.data.tiling import Looks
from engine.errors import UserError
from engine.models.prompts import Prompts
from engine.models.registry import build_model
from engine.models.segmenter import Segmenter
from engine.models.weights import load_weights
from export.clicks import Click
from export.manifest import MANIFEST_FILE, MODEL_FILE, PROMPT_DECODER_FILE, read_manifest
from export.package import BundleContent, write_bundle
from export.parity import sample_images
from export.prompting import KeptArrays, Prompter, Seen, key_of, load_prompter
from export.runtime import load_bundle
from export.variants import VariantPlan

IMAGE_PX, SIZE_HW = 64, (90, 120)


@pytest.fixture(scope="module")
def model() -> Segmenter:
    found = build_model("tinysam", size="mini", num_classes=2, image_px=IMAGE_PX, seed=1)
    load_weights(found, "tinysam-mini")
    assert isinstance(found, Segmenter)
    return found.eval()


@pytest.fixture(scope="module")
def bundle(model: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = parse_config({"data": {"image_px": IMAGE_PX}})
    content = BundleContent(
        name="two", role="distilled_student", task="fundus", modality="photograph", classes=("disc", "cup"),
        model=config.student, config=config, metrics=(), run_id="run-1", prompted=model, prompt_steps=3,
        variants=VariantPlan(names=("half",), half_px=32, threads=1),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "bundle"
    write_bundle(folder, model, content=content)
    return folder


@pytest.fixture
def prompter(bundle: Path) -> Prompter:
    found = load_prompter(bundle, load_bundle(bundle, threads=1), threads=1)
    assert found is not None
    return found


@pytest.fixture
def runs(prompter: Prompter, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the graphs that ran, through the real sessions."""
    found: list[str] = []
    for name, owner, attribute in (("encoder", prompter.session, "inference"), ("decoder", prompter, "decoder")):
        monkeypatch.setattr(owner, attribute, _Counted(name, getattr(owner, attribute), found))
    return found


class _Counted:
    def __init__(self, name: str, session: Any, found: list[str]) -> None:
        self._name, self._session, self._found = name, session, found

    def run(self, *given: Any) -> Any:
        self._found.append(self._name)
        return self._session.run(*given)


def image(seed: int = 3, size_hw: tuple[int, int] = SIZE_HW) -> np.ndarray:
    side = max(size_hw)
    drawn = sample_images(1, image_px=side, seed=seed)[0].transpose(1, 2, 0)
    return (255 * drawn[: size_hw[0], : size_hw[1]]).astype(np.uint8)


def ask(
    prompter: Prompter, *clicks: Click, looks: Looks = "whole", read: Callable[[], np.ndarray] = image, **more: Any
) -> np.ndarray:
    given = {"rows": slice(0, SIZE_HW[0]), "columns": slice(0, SIZE_HW[1]), "size_hw": SIZE_HW, **more}
    return prompter.logits(clicks, 1, image_key=key_of(image()), looks=looks, read=read, **given)[0]


def test_two_graphs_one_after_the_other_are_the_model(bundle: Path, prompter: Prompter, model: Segmenter) -> None:
    manifest = read_manifest(bundle)
    assert (
        manifest.prompts is not None and manifest.prompts.parity.max_abs_difference <= manifest.prompts.parity.tolerance
    )
    assert manifest.prompts.embedding == (128, 8, 8) and manifest.prompts.steps == 3
    # A click at row 30, column 40 of 90 x 120 pixels is at x 64 * 40.5 / 120, y 64 * 30.5 / 90, from the first's
    # middle.
    given = prompter.session.preprocess(image())
    points = np.array([[64 * 40.5 / 120 - 0.5, 64 * 30.5 / 90 - 0.5]], np.float32)
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(given))
        drawn = prompt_map(model.decode(features)[0, 1].numpy(), points, np.array([1]), stride=2)
        prompts = Prompts(
            points_BN2=torch.from_numpy(points[None]),
            labels_BN=torch.tensor([[1]]),
            mask_B1HW=torch.from_numpy(drawn[None, None]),
        )
        expected = model.decode(features, prompts=prompts)[0, 1:2].numpy()
    found = ask(prompter, Click("add", 1, 30, 40, 9))
    assert np.abs(found - prompter.session.at_own_size(expected, size_hw=SIZE_HW)[0]).max() < 1e-4
    other = ask(prompter, Click("remove", 1, 30, 40, 9))
    assert np.abs(found - other).max() > 1e-2  # the sign is not lost on the way


def test_a_click_costs_the_decoder_alone(prompter: Prompter, runs: list[str]) -> None:
    logits = prompter.first(image(), key_of(image()))
    assert runs == ["encoder"] and np.array_equal(logits, prompter.session.logits(image()))
    runs.clear()

    def unread() -> np.ndarray:
        raise AssertionError("the image is not read again")

    first = ask(prompter, Click("add", 1, 30, 40, 9), read=unread)
    ask(prompter, Click("add", 1, 30, 40, 9), Click("remove", 1, 3, 4, 9), read=unread)
    assert runs == ["decoder", "decoder"]
    assert np.array_equal(ask(prompter, Click("add", 1, 30, 40, 9), read=unread), first)
    assert runs == ["decoder", "decoder"]


def test_what_is_not_kept_any_more_is_worked_out_anew_from_the_same_image_alone(
    bundle: Path, runs: list[str], prompter: Prompter
) -> None:
    first = ask(prompter, Click("add", 1, 30, 40, 9))
    assert runs == ["encoder", "decoder"]
    prompter.kept = KeptArrays(1000)  # no features fit
    assert np.array_equal(ask(prompter, Click("add", 1, 30, 40, 9)), first) and prompter.kept.num_bytes <= 1000
    assert runs == ["encoder", "decoder"] * 2
    with pytest.raises(UserError, match="not the one that was segmented") as refused:
        ask(prompter, Click("add", 1, 30, 40, 9), read=lambda: image(seed=4))
    assert refused.value.code == "prompt.other_image"


@pytest.mark.parametrize("looks", ["parts", "fine"])
def test_in_parts_the_square_around_the_click_is_asked(prompter: Prompter, runs: list[str], looks: Looks) -> None:
    near = {"rows": slice(25, 36), "columns": slice(75, 86)}
    found = ask(prompter, Click("add", 1, 30, 80, 9), looks=looks, **near)
    assert found.shape == (11, 11) and runs == ["encoder", "decoder"]
    ask(prompter, Click("add", 1, 31, 81, 9), looks=looks, **near)
    assert runs == ["encoder", "decoder", "decoder"]  # the same square
    eye = prompter.session.manifest.eye
    view = eye.view_at(SIZE_HW, looks, (30, 80))
    seen: list[np.ndarray] = []
    eye.look(lambda given: (seen.append(given), np.zeros((2, 32, 32), np.float32))[1], image(), looks)
    own = eye.input_of(image(), looks, view)
    assert sum(np.array_equal(own, one) for one in seen) == 1  # one of those that the model looked at


def test_a_window_is_the_same_part_of_the_whole(prompter: Prompter) -> None:
    whole = ask(prompter, Click("add", 1, 30, 40, 9))
    part = ask(prompter, Click("add", 1, 30, 40, 9), rows=slice(10, 50), columns=slice(5, 100))
    assert np.allclose(part, whole[10:50, 5:100], atol=1e-4)


def test_kept_arrays_stay_within_their_budget_whoever_asks() -> None:
    kept = KeptArrays(100_000)

    def fill(number: int) -> None:
        for index in range(200):
            kept.put((number, index), Seen(np.zeros((10, 10, 10), np.float32), np.zeros(index, np.float32)))
            kept.get((number, index // 2))

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < kept.num_bytes <= 100_000


def test_a_bundle_without_a_decoder_has_none_and_one_that_lacks_its_file_is_refused(bundle: Path) -> None:
    values = json.loads((bundle / MANIFEST_FILE).read_text())
    assert {MODEL_FILE, PROMPT_DECODER_FILE} <= set(values["files"])
    session = load_bundle(bundle, threads=1)
    session.manifest = session.manifest.model_copy(update={"prompts": None})
    assert load_prompter(bundle, session) is None
    half = load_bundle(bundle, variant="half", threads=1)
    assert half.logits(image()).shape == (2, 16, 16)  # variants go on as they are
    (bundle / MANIFEST_FILE).write_text(json.dumps(values | {"prompts": values["prompts"] | {"file": "other.onnx"}}))
    with pytest.raises(UserError, match=r"does not list other\.onnx"):
        load_bundle(bundle)
    (bundle / MANIFEST_FILE).write_text(json.dumps(values))


def test_a_click_is_drawn_on_the_models_own_logits() -> None:
    drawn = prompt_map(np.full((9, 9), 7.0), np.array([[8.5, 4.5]]), np.array([1]), stride=2)  # column 4, row 2
    assert drawn[2, 4] == 12 and drawn[0, 4] == 12 and drawn[5, 4] == 4 and (drawn == 12).sum() == 21
