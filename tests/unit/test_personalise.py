"""pFedSAM at its sites: what learns in which step, what crosses, what stays, and what a resumed site has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.reporting import ConsoleReporter
from engine.config import RunConfig, parse_config
from engine.data.transforms import mask_to_grid
from engine.errors import UserError
from engine.federation.tasks import SiteReply, SiteRequest
from engine.models.execution import Placement
from engine.models.experts import add_experts, bypassed_experts, expert_parameters
from engine.models.lora import add_lora
from engine.models.objective import Objective, supervised_loss
from engine.models.roles import build_role
from engine.planning.model_keys import sharing_of
from engine.runs.checkpoint import CheckpointStore
from engine.site.expert_training import train_experts
from engine.site.program import SiteProgram
from engine.stages.context import RunContext
from engine.stages.tuned_training import LoraTraining, PersonalTraining
from engine.types import RunCancelled, Traffic
from tests.unit.federation_world import Discs
from tests.unit.tiny_models import make_pair

SITES = ("dapi_20x", "he_pink")
HEADER = 128
"""Bytes of an .npy header for so few sides."""


def configure(method: str = "pfedsam", **sections: Any) -> RunConfig:
    values: dict[str, Any] = {
        "method": method, "device": "cpu", "precision": "fp32", "seed": 5, "threads": 1,
        "data": {"task": "nuclei", "images_per_site": 4, "image_px": 32, "sites": list(SITES), "held_out": "he_violet",
                 "validation_fraction": 0.3},
        "student": {"name": "sam", "weights": "sam-mini"},
        "federation": {"rounds": 2, "batch_size": 2, "learning_rate": 1e-3},
        "experts": {"width": 4},
    }  # fmt: skip
    for key, value in sections.items():
        values[key] = {**values.get(key, {}), **value}
    return parse_config(values)


class Counted(ConsoleReporter):
    """Keeps curves and traffic."""

    def __init__(self, *, stop_at: tuple[str, int, str | None] | None = None) -> None:
        super().__init__("test")
        self.points: dict[tuple[str, int, str | None], float] = {}
        self.records: list[Traffic] = []
        self.stop_at = stop_at

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        self.points[name, step, site] = value
        if (name, step, site) == self.stop_at:
            raise RunCancelled

    def traffic(self, record: Traffic) -> None:
        self.records.append(record)


def train(folder: Path, config: RunConfig, *, reporter: Counted | None = None) -> Counted:
    reporter = reporter or Counted()
    store = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    context = RunContext(config=config, run_dir=folder, reporter=reporter, checkpoints=store)
    (PersonalTraining if config.experts.use else LoraTraining)().run(context)
    return reporter


def own(folder: Path, site: str, *, after: int = 2) -> dict[str, torch.Tensor]:
    return load_file(folder / "sites" / site / f"own_round_{after:06d}.safetensors")


def saved(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "models" / f"{name}.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counted, list[tuple[set[str], set[str]]]]:
    """Return the folder of a run, what it told, and the names that went down and up in each message."""
    seen: list[tuple[set[str], set[str]]] = []
    honest = SiteProgram.answer

    def answer(program: SiteProgram, request: SiteRequest, **how: Any) -> SiteReply:
        reply = honest(program, request, **how)
        seen.append((set(request.arrays), set(reply.arrays)))
        return reply

    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SiteProgram, "answer", answer)
        reporter = train(folder, configure())
    return folder, reporter, seen


def test_experts_differ_between_sites_and_none_of_their_keys_crosses(trained: Any) -> None:
    folder, _, seen = trained
    first = build_role(configure(), "student", num_classes=1).state_dict()
    mine, others = (own(folder, site) for site in SITES)
    keys = [name for name in first if ".mlp.experts." in name]
    assert len(keys) == 2 * 3 and set(keys) <= mine.keys() == others.keys()
    for name in keys:
        assert not torch.equal(mine[name], others[name]) and not torch.equal(mine[name], first[name]), name
    assert len(seen) >= len(SITES) * 3
    assert not any(".experts." in name for down, up in seen for name in down | up)


def test_the_bytes_are_those_of_the_declared_list(trained: Any) -> None:
    _, reporter, seen = trained
    sharing, num_bytes = sharing_of(configure(), num_classes=1)
    message = sum(len(name) + HEADER + num_bytes[name] for name in sharing.shared)
    assert all(up in (set(), set(sharing.shared)) and down in (set(), set(sharing.shared)) for down, up in seen)
    for site in SITES:
        for direction, messages in (("down", 3), ("up", 2)):
            whose = (site, direction, "student")
            counted = [t.payload_bytes for t in reporter.records if (t.site, t.direction, t.kind) == whose]
            assert sum(counted) == messages * message


def test_the_global_model_has_no_sites_experts(trained: Any) -> None:
    """An unseen site's is theta_g alone: its experts add nothing."""
    folder, _, _ = trained
    of_all, shared = saved(folder, "pfedsam_global"), saved(folder, "pfedsam_personal")
    assert all(torch.equal(of_all[name], shared[name]) for name in shared)
    assert not any(".experts." in name for name in shared)
    ups = [tensor for name, tensor in of_all.items() if name.endswith(".experts.up")]
    assert len(ups) == 2 and not any(tensor.any() for tensor in ups)
    model, image = build_role(configure(), "student", num_classes=1), torch.rand(1, 3, 32, 32)
    model.load_state_dict(of_all)
    with torch.no_grad():
        expected = model(image)
        model.load_state_dict({**of_all, **own(folder, SITES[0])})
        assert not torch.equal(model(image), expected)
        with bypassed_experts(model):
            assert torch.equal(model(image), expected)


def test_without_its_own_step_it_is_fedavg_lora_to_the_bit(tmp_path: Path) -> None:
    without = configure(experts={"epochs": 0, "distillation_weight": 0.0})
    train(tmp_path / "pfedsam", without)
    plain = train(tmp_path / "lora", configure("fedavg_lora"))
    shared, lora = saved(tmp_path / "pfedsam", "pfedsam_global"), saved(tmp_path / "lora", "lora_student")
    assert all(torch.equal(shared[name], lora[name]) for name in lora) and len(shared) == len(lora) + 6
    assert not (tmp_path / "lora" / "models" / "lora_personal.safetensors").exists()
    assert not any(name == "personal_loss" for name, _, _ in plain.points)
    assert len({tensor.numpy().tobytes() for site in SITES for name, tensor in own(tmp_path / "pfedsam", site).items()
                if name.endswith("experts.up")}) == 1, "no expert has learnt"  # fmt: skip


def test_the_own_step_changes_nothing_of_what_is_shared(trained: Any, tmp_path: Path) -> None:
    """Of runs with and without it, what crosses has the same bits: the global model does not see the experts."""
    folder, _, _ = trained
    train(tmp_path, configure(experts={"epochs": 0}))
    assert equal(saved(tmp_path, "pfedsam_personal"), saved(folder, "pfedsam_personal"))


def test_a_site_that_was_stopped_goes_on_to_the_same_bits(trained: Any, tmp_path: Path) -> None:
    folder, reporter, _ = trained
    with pytest.raises(RunCancelled):
        train(tmp_path, configure(), reporter=Counted(stop_at=("loss", 2, SITES[0])))
    again = train(tmp_path, configure())
    for name in ("pfedsam_global", "pfedsam_personal"):
        assert equal(saved(tmp_path, name), saved(folder, name))
    assert all(equal(own(tmp_path, site), own(folder, site)) for site in SITES)
    assert again.points["personal_loss", 2, SITES[1]] == reporter.points["personal_loss", 2, SITES[1]]


def tiny() -> torch.nn.Module:
    model, _ = make_pair()
    config = configure(experts={"number": 2})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        add_lora(model, config.lora, name="tiny")
        add_experts(model, config.experts, name="tiny")
        for layer in (module for module in model.modules() if hasattr(module, "experts")):
            layer.experts.up.normal_(std=30.0)
        model.mask_decoder.output_hypernetworks_mlps[0].layers[-1].weight.mul_(300)  # a mask that is sure of itself
    return model


def step(model: torch.nn.Module, folder: Path, *, images: int = 2, number: int = 1, **experts: Any) -> float:
    config = configure(experts={"number": 2, **experts})
    return train_experts(
        model, Discs("north", images), config=config, objective=Objective(), seed=5, site="north", round_number=number,
        state_dir=folder, placement=Placement(), check_cancelled=lambda: None, on_step=lambda step, total: None,
    )  # fmt: skip


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("balance", [0.0, 0.3])
def test_what_the_experts_minimise_by_hand(beta: float, balance: float, tmp_path: Path) -> None:
    """L_sup + beta T^2 KL(p_global || p_personal) + w balance, of the one batch before the step."""
    model, images = tiny(), Discs("north", 2)
    pictures, masks = images.batch(np.arange(2))
    gates: list[torch.Tensor] = []
    with torch.no_grad():
        hook = model.image_encoder.blocks[1].mlp.experts.gate.register_forward_hook(
            lambda _module, _given, scores: gates.append(torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True))
        )
        personal = model(torch.from_numpy(pictures))
        hook.remove()
        with bypassed_experts(model):
            of_all = model(torch.from_numpy(pictures))
        mask = torch.from_numpy(mask_to_grid(masks, personal.shape[-1]))
        p, q = torch.sigmoid(of_all / 3.0), torch.sigmoid(personal / 3.0)
        kl = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
        assert float(kl) > 1e-4
        chosen = torch.stack([(gates[0].argmax(-1) == expert).float().mean() for expert in (0, 1)])
        spread = 2 * (chosen * gates[0].mean(dim=(0, 1, 2))).sum()
        expected = supervised_loss(personal, mask, pos_weight=2.0) + beta * 9 * kl + balance * spread
    settings = {"distillation_weight": beta, "temperature": 3.0, "balance_weight": balance}
    assert step(model, tmp_path, **settings) == pytest.approx(float(expected), rel=1e-5)


def test_only_experts_learn_and_all_learn_on_afterwards(tmp_path: Path) -> None:
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learning = [parameter.requires_grad for parameter in model.parameters()]
    losses = [step(model, tmp_path, number=number, images=4, epochs=3) for number in (1, 2)]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"image_encoder.blocks.1.mlp.experts.{part}" for part in ("down", "up", "gate.weight")}
    assert [parameter.requires_grad for parameter in model.parameters()] == learning
    assert losses[1] < losses[0]
    kept = load_file(tmp_path / "adam_experts_round_000002.safetensors")
    assert len(kept) == 3 * len(expert_parameters(model)) and not list(tmp_path.glob("adam_round_*"))
    assert {int(tensor) for name, tensor in kept.items() if name.startswith("step/")} == {2 * 3 * 2}


def test_a_round_trained_again_starts_from_the_same_optimiser(tmp_path: Path) -> None:
    states = []
    for number in (1, 2, 2):
        model = tiny()  # a new process
        step(model, tmp_path, number=number)
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert equal(states[1], states[2]) and not equal(states[0], states[1])


def test_a_loss_that_is_no_number_is_named(tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        model.image_encoder.blocks[1].mlp.experts.up.fill_(float("nan"))
    with pytest.raises(UserError, match="site north is nan in round 1, step 1"):
        step(model, tmp_path)
