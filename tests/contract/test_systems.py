"""Each compared system for two rounds on phantoms in this process: exactly its keys and bytes cross a site's border.

What has to cross is worked out here from the names of a model's layers, not by the program's own rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.config import RunConfig, load_config, parse_config
from engine.federation.tasks import TRAIN_STUDENT, VALIDATE_STUDENT, Arrays, SiteReply, SiteRequest
from engine.methods import catalogue
from engine.models.roles import build_role
from engine.site.program import SiteProgram
from tests.integration.test_personal_stages import context_in

SITES = ("dapi_20x", "he_pink")
ROUNDS = 2


def whole(_name: str) -> bool:
    return True


def none(_name: str) -> bool:
    return False


def adapters_and_decoder(name: str) -> bool:
    return ".adapter." in name or name.startswith("mask_decoder.")


def updates_and_decoder(name: str) -> bool:
    return ".attn.qkv.lora_" in name or name.startswith("mask_decoder.")


@dataclass(frozen=True)
class System:
    """A system, the model that it has to take, which keys may cross, and how many parameters they have."""

    method: str
    model: str
    crosses: Callable[[str], bool]
    parameters: int
    sites: tuple[str, ...] = SITES


# At 64 pixels positions are 8 x 8 in place of 16 x 16, and so are the tables of relative ones in the two global blocks.
SAM = 3_571_584 - 192 * (16 * 16 - 8 * 8) - 2 * 2 * 16 * 64
# An adapter of the mini SAM: 192 x 48 + 48 + 48 x 192 + 192 = 18,672; two in each of six blocks; the decoder 624,756.
SYSTEMS = [
    System("fedtinysam", "tinysam", whole, 1_389_680),
    System("fedtinysam_fedprox", "tinysam", whole, 1_389_680),
    System("fedsam", "sam", whole, SAM),
    System("fedmsa", "msa", adapters_and_decoder, 12 * 18_672 + 624_756),
    # Rank 4 on q and v of each of six blocks: 4 x 192 + 192 x 4.
    System("fedavg_lora", "sam", updates_and_decoder, 6 * 2 * 1536 + 624_756),
    System("pfedsam", "sam", updates_and_decoder, 6 * 2 * 1536 + 624_756),
    System("local_lora", "sam", none, 0),
    System("fedunet", "unet", whole, 1_625_420),
    System("fednnunet", "nnunet", whole, 1_290_388),
    System("centralised_sam", "sam", whole, SAM, sites=("all_sites",)),
    System("local_only", "tinysam", none, 0),
]


def configured(method: str) -> RunConfig:
    values = load_config("phantom_cpu_smoke").model_dump(mode="json")
    values |= {"method": method, "device": "cpu", "precision": "fp32", "seed": 5}
    values["data"] |= {"task": "nuclei", "images_per_site": 3, "image_px": 64, "sites": list(SITES)}
    values["data"] |= {"held_out": "he_violet", "validation_fraction": 0.34, "augment": "none"}
    values["federation"] |= {"rounds": ROUNDS, "batch_size": 2, "local_epochs": 1}
    return parse_config(values)


def bytes_of(arrays: Arrays) -> int:
    """Names, and each array as numpy writes it."""
    total = 0
    for name, array in arrays.items():
        file = BytesIO()
        np.save(file, array)
        total += len(name.encode()) + len(file.getvalue())
    return total


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.method)
def test_exactly_these_keys_and_bytes_cross(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crossed: list[tuple[SiteRequest, SiteReply]] = []
    answer = SiteProgram.answer

    def noted(program: SiteProgram, request: SiteRequest, **how: Any) -> SiteReply:
        crossed.append((request, answer(program, request, **how)))
        return crossed[-1][1]

    monkeypatch.setattr(SiteProgram, "answer", noted)
    config = configured(system.method)
    context = context_in(tmp_path, config)
    catalogue.make_stages(catalogue.method(system.method))[0].run(context)
    assert config.student.name == system.model and context.sites.names == system.sites
    model = build_role(config, "student", num_classes=1)
    keys = {name for name in model.state_dict() if system.crosses(name)}
    learnt = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(learnt.get(name, 0) for name in keys) == system.parameters

    asked = [(request.task, request.round, request.site) for request, _ in crossed]
    assert asked == [
        *((TRAIN_STUDENT, number, site) for number in range(1, ROUNDS + 1) for site in system.sites),
        *((VALIDATE_STUDENT, ROUNDS, site) for site in system.sites),
    ]
    for request, reply in crossed:
        assert request.arrays.keys() == keys
        assert reply.arrays.keys() == (keys if request.task == TRAIN_STUDENT else set())
    records: Any = context.reporter
    for site in system.sites:
        for direction, arrays in (
            ("down", [request.arrays for request, _ in crossed if request.site == site]),
            ("up", [reply.arrays for request, reply in crossed if request.site == site]),
        ):
            told = [r for r in records.records if (r.site, r.direction, r.kind) == (site, direction, "student")]
            assert sum(record.payload_bytes for record in told) == sum(map(bytes_of, arrays))
    # Every parameter that crosses and has a gradient has moved, and what is not sent is equal to the first weights.
    first = context.new_model("student").state_dict()
    last = context.load_model("student", catalogue.method(system.method).models[0].name).state_dict()
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved <= keys and (len(moved) > 0.7 * len(keys) or not keys)


def test_every_system_says_what_it_is_and_is_checked_here_or_as_a_whole() -> None:
    for method in catalogue.methods().values():
        for words in (method.sentence, method.trains, method.crosses):
            assert words.endswith("."), method.name
    # FedBN, DSFedMed and SAM-Fed are checked with all their stages (test_personal_stages, _stages, _samfed_rounds).
    elsewhere = {name for name in catalogue.methods() if name.startswith(("dsfedmed", "samfed"))}
    elsewhere |= {"fedtinysam_fedbn", "public_only"}
    assert {system.method for system in SYSTEMS} == catalogue.methods().keys() - elsewhere
