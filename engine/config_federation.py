"""The sections ``federation`` (rounds, aggregation, what happens when a site fails) and ``join`` of a configuration."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from engine.config_fields import Batch, Decay, Epochs, Factor, Name, Section, StepSize

KeyPatterns = Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)]
"""Of names of the student's arrays; ``*`` stands for any letters."""
_SITE_STUDENT = re.compile(r"(.+)=([a-z0-9_]+)/([a-z0-9_]+)")

CodecStep = Literal["topk", "fp16", "int8", "zstd"]
_PLACE: dict[str, int] = {"topk": 0, "fp16": 1, "int8": 1, "zstd": 2}
"""Entries are chosen, what is chosen is written as numbers, and bytes are packed."""


def _refuse_disorder(steps: tuple[str, ...]) -> tuple[str, ...]:
    for first, second in itertools.pairwise(steps):
        if _PLACE[first] == _PLACE[second]:
            said = "is given twice" if first == second else f"and '{second}' both say how numbers are written"
            raise ValueError(f"'{first}' {said}: the order is topk, then fp16 or int8, then zstd; each may be left out")
        if _PLACE[first] > _PLACE[second]:
            raise ValueError(f"'{second}' cannot come after '{first}': the order is topk, then fp16 or int8, then zstd")
    return steps


Codec = Annotated[tuple[CodecStep, ...], Field(max_length=3), AfterValidator(_refuse_disorder)]


def _refuse_other_than_site_students(values: tuple[str, ...]) -> tuple[str, ...]:
    found = [_SITE_STUDENT.fullmatch(value) for value in values]
    wrong = [value for value, match in zip(values, found, strict=True) if match is None]
    if wrong:
        raise ValueError(f"'{wrong[0]}' is not SITE=MODEL/SIZE, for instance north=unet/mini")
    sites = [match[1] for match in found if match is not None]
    if len(set(sites)) < len(sites):
        raise ValueError("a site has two models")
    return values


SiteStudents = Annotated[
    tuple[Name, ...], Field(min_length=1, max_length=1000), AfterValidator(_refuse_other_than_site_students)
]


class FederationConfig(Section):
    """Federated training of the student (Eq. 3-4)."""

    rounds: Epochs = Field(100, description="Communication rounds [P: 100]")
    participation: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of the sites that each round asks, drawn anew; 1 is all, as in the paper (others ours)"
    )
    local_epochs: Epochs = Field(1, description="Epochs at each site in a round [C: 1]")
    batch_size: Batch = Field(10, description="Images in a batch [C: 10]")
    learning_rate: StepSize = Field(1e-4, description="Adam step size [C: 1e-4]")
    aggregation_weights: Literal["exact", "rounded"] = Field("exact", description="n_k/n, or at 2 decimals [C]")
    average_buffers: bool = Field(True, description="Average BatchNorm statistics [C]; off: the first ones stay")
    shared: Literal["all", "trainable", "none"] = Field(
        "all", description="What sites average of the student: all [C], what learns alone (FedMSA), or none (alone)"
    )
    shared_parameters: KeyPatterns | None = Field(
        None, description="Of that, only the arrays whose names match one of these, * for any letters (ours)"
    )
    local_parameters: KeyPatterns | None = Field(
        None, description="Arrays that no round sends and that are each site's own: patterns of their names (ours)"
    )
    normalisation: Literal["average", "local"] = Field(
        "average", description="Normalisation layers: averaged [C], or each site's own (FedBN, arXiv 2102.07623)"
    )
    site_students: SiteStudents | None = Field(
        None, description="SITE=MODEL/SIZE: a site's own kind of student, from random weights; what cannot be averaged"
    )
    codec: Codec = Field(
        (), description="Steps that write a site's update in a round: topk, fp16 or int8, zstd; none sends it as it is"
    )
    codec_down: Codec = Field((), description="The same for what the server sends to the sites in a round")
    topk_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="topk: share of each array's entries that a message has, the largest; others wait (ours)"
    )
    aggregation: Literal["fedavg", "fedavgm", "median", "trimmed_mean", "krum", "multi_krum"] = Field(
        "fedavg", description="Mean of the sites' models [P], with momentum, or one that withstands hostile sites"
    )
    server_momentum: Decay = Field(0.9, description="fedavgm: share of the last step that is taken again")
    server_learning_rate: StepSize = Field(1.0, description="fedavgm: length of the server's step")
    trimmed_share: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.25, description="trimmed_mean: share of the sites left out at either end of each weight (ours)"
    )
    hostile_sites: int = Field(1, ge=0, le=1000, description="krum, multi_krum: sites that may send anything (ours)")
    large_updates: Literal["accept", "refuse", "clip"] = Field(
        "accept", description="A site's update far larger than the others': accept, refuse or shorten it (ours)"
    )
    update_norm_limit: Annotated[float, Field(ge=1, le=1e6)] = Field(
        10.0, description="refuse, clip: how many times the norm of the others' median an update may have (ours)"
    )
    on_failure: Literal["stop", "retry", "skip"] = Field(
        "stop",
        description="A site fails or is late: stop the run, ask again, or go on without it where it can (ours)",
    )
    retries: int = Field(3, ge=1, le=1000, description="retry: times that a site is asked the same again (ours)")
    quorum: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="skip: replies that a round needs; half of the sites when left out (ours)"
    )
    deadline_s: Annotated[float, Field(gt=0, le=1e7)] | None = Field(
        None,
        description="Seconds after which a site without an answer in a round counts as failed; never when left out",
    )
    proximal_mu: Factor = Field(0.0, description="FedProx: weight of mu/2 |theta - received|^2 at the sites; 0 is off")
    patience: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Stop after so many rounds without a better validation Dice; never when left out (ours)",
    )
    average_decay: Decay = Field(0.0, description="Moving mean of the rounds' averages goes on; 0 is the last (ours)")

    @property
    def students(self) -> dict[str, tuple[str, str]]:
        """Name and size of the student of each site that has a kind of its own."""
        found = (_SITE_STUDENT.fullmatch(text) for text in self.site_students or ())
        return {match[1]: (match[2], match[3]) for match in found if match is not None}

    @property
    def keeps_parts(self) -> bool:
        """Whether something of the student may stay at the sites."""
        if self.site_students is not None:
            return True
        patterns = self.shared_parameters is not None or self.local_parameters is not None
        return patterns or self.shared != "all" or self.normalisation == "local"

    def num_asked(self, num_sites: int) -> int:
        """Return how many of ``num_sites`` a round asks: max(C K, 1), rounded (McMahan et al. 2017, Algorithm 1)."""
        return max(1, round(self.participation * num_sites))


class JoinConfig(Section):
    """New sites of a finished run (Figure 6 of DSFedMed); ``python -m engine join RUN SITE`` writes it."""

    sites: Annotated[tuple[Name, ...], Field(max_length=1000)] = Field(
        (), description="Sites that join: they train a generator and share masks, and no federated round is run again"
    )
