"""Rounds under ``[privacy]``, over real Flower messages: equal to a few independent lines, refused where unclipped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import FederationConfig, PrivacyConfig, RunConfig, parse_config
from engine.errors import UserError
from engine.federation.aggregation import Aggregator, make_private_aggregator
from engine.federation.backends.inprocess import InProcessGrid
from engine.federation.backends.participants import for_sites
from engine.federation.checks import RoundChecks
from engine.federation.client_app import build_client_app
from engine.federation.coded_rounds import CodedRounds
from engine.federation.privacy import clipped, noised
from engine.federation.rounds import RoundResult, run_rounds
from engine.federation.tasks import TRAIN_STUDENT, SiteReply, SiteRequest
from engine.models.arrays import buffer_names, model_arrays
from engine.seeding import numpy_generator
from engine.site.privacy import RELEASES
from engine.system_randomness import SystemNumbers
from tests.unit.federation_world import CONFIG, NO_PRIVACY, SEED, SITES, build_unet, student_tasks

Arrays = dict[str, np.ndarray]
BUFFERS = buffer_names(build_unet())
CENTRAL = PrivacyConfig(mechanism="central", clip_norm=0.3, noise_multiplier=0.5)
CLIENT = PrivacyConfig(mechanism="client", clip_norm=0.3, noise_multiplier=0.5)
Wrap = Callable[[SiteRequest, Callable[[SiteRequest], SiteReply]], SiteReply]


def run_config(privacy: PrivacyConfig, federation: FederationConfig = CONFIG) -> RunConfig:
    return RunConfig(privacy=privacy, federation=federation, seed=SEED)


def rounds(
    root: Path, privacy: PrivacyConfig, *, until: int = 1, start: int = 1, arrays: Arrays | None = None,
    aggregator: Aggregator | None = None, wrap: Wrap | None = None, sites: PrivacyConfig | None = None,
    federation: FederationConfig = CONFIG, **how: Any,
) -> tuple[Arrays, list[RoundResult]]:  # fmt: skip
    """Run rounds as the stage does; ``sites`` is what the sites' own configuration says where it is another."""
    tasks = student_tasks(root, privacy=sites or privacy, config=federation)
    if wrap is not None:
        tasks = {name: lambda request, task=task: wrap(request, task) for name, task in dict(tasks).items()}
    config, results = run_config(privacy, federation), []
    aggregator = aggregator or make_private_aggregator(config, buffers=BUFFERS)
    central = privacy.mechanism == "central"
    checks = RoundChecks(buffers=BUFFERS, clip_norm=privacy.clip_norm if central else None)
    end = run_rounds(
        InProcessGrid(build_client_app(tasks), sites=SITES), arrays=arrays or model_arrays(build_unet()), sites=SITES,
        rounds=until, start_round=start, aggregate=aggregator.aggregate, checks=checks,
        on_round=lambda result: results.append(result), coding=CodedRounds.of(federation, buffers=BUFFERS), **how,
    )  # fmt: skip
    return end, results


def floats() -> list[str]:
    return [name for name, array in model_arrays(build_unet()).items() if name not in BUFFERS and array.dtype == "f4"]


def by_hand(root: Path, *, clip_norm: float) -> dict[str, Arrays]:
    """Return each site's clipped update of the first round, from the plain rounds' own training."""
    answer, first = student_tasks(root, privacy=NO_PRIVACY)[TRAIN_STUDENT], model_arrays(build_unet())
    found = {}
    for site in SITES:
        reply = answer(SiteRequest(site, TRAIN_STUDENT, 1, {}, first))
        update = {name: reply.arrays[name].astype(float) - first[name] for name in floats()}
        norm = np.sqrt(sum(float((part**2).sum()) for part in update.values()))
        assert norm > clip_norm, "else nothing is clipped here"
        found[site] = {name: part * min(1.0, clip_norm / norm) for name, part in update.items()}
    return found


def drawn(mechanism: str, who: str, number: int, first: Arrays) -> Arrays:
    """Return the noise of a stream in units of its deviation, parameter after parameter in order of the names."""
    rng = numpy_generator(SEED, "privacy", mechanism, who, number)
    return {name: rng.standard_normal(first[name].size).reshape(first[name].shape) for name in sorted(floats())}


def assert_close(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=3e-7, rtol=0, err_msg=name)


def test_central_noise_is_added_once_to_the_equal_mean_of_clipped_updates(tmp_path: Path) -> None:
    first, updates = model_arrays(build_unet()), by_hand(tmp_path / "plain", clip_norm=0.3)
    noise, std = drawn("central", "server", 1, first), 0.5 * 0.3 / 3
    mean = {name: first[name] + sum(updates[site][name] for site in SITES) / 3 + std * noise[name] for name in floats()}
    end, results = rounds(tmp_path / "ours", CENTRAL)
    assert_close(end, mean)
    assert all(np.array_equal(end[name], first[name]) for name in BUFFERS), "statistics say nothing of a site"
    assert "releases" not in results[0].metrics["north"]


def test_each_site_s_noise_is_its_own_and_in_what_the_server_is_sent(tmp_path: Path) -> None:
    first, updates = model_arrays(build_unet()), by_hand(tmp_path / "plain", clip_norm=0.3)
    sent: dict[str, SiteReply] = {}

    def keep(_number: int, site: str, reply: SiteReply) -> None:
        sent[site] = reply

    end, results = rounds(tmp_path / "ours", CLIENT, on_reply=keep)
    for site in SITES:
        noise = drawn("client", site, 1, first)
        expected = {name: first[name] + updates[site][name] + 0.5 * 0.3 * noise[name] for name in floats()}
        assert_close(sent[site].arrays, expected)
        assert all(np.array_equal(sent[site].arrays[name], first[name]) for name in BUFFERS)
    assert [metrics["releases"] for metrics in results[0].metrics.values()] == [1, 1, 1]
    weights = {"north": 5, "south": 3, "west": 4}
    mean = {n: sum(w * sent[s].arrays[n].astype(float) for s, w in weights.items()) / 12 for n in floats()}
    assert_close(end, mean)


def test_the_noise_has_the_deviation_that_epsilon_is_worked_out_with() -> None:
    """z C / K on the mean, z C at a site: of 100,000 numbers within five standard errors."""
    size = 100_000
    start = {"weight": np.zeros(size, np.float32), "buffer": np.ones(3, np.float32), "count": np.array(4)}
    replies = {site: SiteReply(start, {}, 1) for site in "abcde"}
    private = PrivacyConfig(mechanism="central", clip_norm=2.0, noise_multiplier=1.5, noise_source="system")
    for source in ("seed", "system"):
        config = run_config(private.model_copy(update={"noise_source": source}))
        mean = make_private_aggregator(config, buffers=frozenset({"buffer"})).aggregate(replies, start)
        assert mean["weight"].std() == pytest.approx(1.5 * 2 / 5, rel=5 / np.sqrt(2 * size))
        assert abs(mean["weight"].mean()) < 5 * 0.6 / np.sqrt(size)
        assert np.array_equal(mean["buffer"], start["buffer"]) and mean["count"] == 4


def test_with_noise_at_the_server_every_site_counts_the_same() -> None:
    """Updates of 0.2 (of 90 images), 0.4 (of 10) and 2, which is shortened to 1: (0.2 + 0.4 + 1) / 3."""
    start = {"weight": np.zeros(1, np.float32)}
    replies = {
        site: SiteReply({"weight": np.full(1, update, np.float32)}, {}, images)
        for site, update, images in (("a", 0.2, 90), ("b", 0.4, 10), ("c", 2.0, 50))
    }
    config = run_config(PrivacyConfig(mechanism="central", clip_norm=1.0, noise_multiplier=1e-9))
    mean = make_private_aggregator(config, buffers=frozenset()).aggregate(replies, start)
    assert mean["weight"][0] == pytest.approx(1.6 / 3, rel=1e-6)


def test_the_system_s_numbers_are_normal_and_never_the_same() -> None:
    first, second = SystemNumbers().standard_normal(200_001), SystemNumbers().standard_normal(200_001)
    assert not np.array_equal(first, second) and first.shape == (200_001,)
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert (first**power).mean() == pytest.approx(moment, abs=0.08)
    assert abs(np.corrcoef(first[:100_000], first[100_000:200_000])[0, 1]) < 0.02
    assert SystemNumbers().standard_normal(0).shape == (0,)
    uniform = SystemNumbers().random(100_000)
    assert 0 <= uniform.min() < 1e-3 and 0.999 < uniform.max() < 1 and uniform.mean() == pytest.approx(0.5, abs=0.005)


def test_clipping_takes_all_parameters_together_and_leaves_what_is_short() -> None:
    before = {"a": np.ones((2, 1), np.float32), "b": np.zeros(1, np.float32), "v": np.ones(1, np.float32)}
    after = {"a": np.array([[4.0], [1.0]], np.float32), "b": np.array([4.0], np.float32), "v": np.full(1, 9.0, "f4")}
    inside = clipped(after, before, clip_norm=1.0, buffers={"v"})
    np.testing.assert_allclose(inside["a"], [[1.6], [1.0]], rtol=1e-6)
    np.testing.assert_allclose(inside["b"], [0.8], rtol=1e-6)
    assert inside["v"] == 1.0 and inside["a"].dtype == np.float32
    assert all(np.array_equal(clipped(after, before, clip_norm=6.0, buffers={"v"})[name], after[name]) for name in "ab")
    assert all(
        np.array_equal(clipped(before, before, clip_norm=1.0, buffers=())[name], before[name]) for name in before
    )
    assert np.array_equal(noised(before, std=0.0, noise=SystemNumbers(), buffers={"v"})["a"], before["a"])


def test_a_site_that_does_not_clip_is_named_and_counts_nothing(tmp_path: Path) -> None:
    def grown(request: SiteRequest, task: Callable[[SiteRequest], SiteReply]) -> SiteReply:
        reply = task(request)
        if request.site != "south":
            return reply
        arrays = {n: a + 1.01 * (reply.arrays[n] - a) if n in floats() else a for n, a in request.arrays.items()}
        return replace(reply, arrays={n: a.astype(request.arrays[n].dtype) for n, a in arrays.items()})

    with pytest.raises(UserError) as refused:
        rounds(tmp_path / "one", CENTRAL, wrap=grown)
    assert refused.value.code == "federation.bad_reply"
    assert "site south in round 1" in refused.value.what and "norm 0.303" in refused.value.what
    with pytest.raises(UserError, match=r"sites clip theirs to 0\.3"):
        rounds(tmp_path / "off", CENTRAL, sites=NO_PRIVACY)
    _, results = rounds(tmp_path / "two", CENTRAL, wrap=grown, quorum=2)
    assert list(results[0].metrics) == ["north", "west"] and list(results[0].failures) == ["south"]


@pytest.mark.parametrize("privacy", [CENTRAL, CLIENT], ids=["central", "client"])
def test_rounds_that_were_interrupted_end_with_the_same_bits(privacy: PrivacyConfig, tmp_path: Path) -> None:
    whole, results = rounds(tmp_path / "whole", privacy, until=3)
    assert [result.metrics["west"].get("releases") for result in results] == (
        [1, 2, 3] if privacy.mechanism == "client" else [None] * 3
    )
    root, config = tmp_path / "parts", run_config(privacy)
    first = make_private_aggregator(config, buffers=BUFFERS)
    before, _ = rounds(root, privacy, until=1, aggregator=first)
    state = first.state()
    rounds(root, privacy, until=2, start=2, arrays=before, aggregator=first)  # and its state is lost
    again = make_private_aggregator(config, buffers=BUFFERS)
    again.restore(state)
    end, results = rounds(root, privacy, until=3, start=2, arrays=before, aggregator=again)
    assert all(np.array_equal(end[name], whole[name]) for name in whole)
    if privacy.mechanism == "client":
        assert results[-1].metrics["west"]["releases"] == 3, "the same bits were sent twice: one release"


def test_a_round_asked_for_again_with_other_noise_is_another_release(tmp_path: Path) -> None:
    privacy = CLIENT.model_copy(update={"noise_source": "system"})
    _, (once,) = rounds(tmp_path, privacy)
    end, (twice,) = rounds(tmp_path, privacy)
    other, _ = rounds(tmp_path / "other", privacy)
    assert (once.metrics["north"]["releases"], twice.metrics["north"]["releases"]) == (1, 2)
    assert any(not np.array_equal(end[name], other[name]) for name in floats())
    (tmp_path / "north" / RELEASES).write_text("[")
    with pytest.raises(UserError) as damaged:
        rounds(tmp_path, privacy)
    assert damaged.value.code == "federation.site_state_damaged"


def test_a_codec_at_a_site_sees_noised_numbers_alone(tmp_path: Path) -> None:
    """With noise of its own a site may code with a loss: what arrives is made of what the plain message would have."""
    coded = CONFIG.model_copy(update={"codec": ("int8",)})
    sent: list[dict[str, SiteReply]] = []
    for federation in (CONFIG, coded):
        kept: dict[str, SiteReply] = {}
        rounds(
            tmp_path / str(len(sent)), CLIENT, federation=federation,
            on_reply=lambda _number, site, reply, kept=kept: kept.update({site: reply}),
        )  # fmt: skip
        sent.append(kept)
    first = model_arrays(build_unet())
    for site in SITES:
        for name in floats():
            plain, arrived = (kept[site].arrays[name] - first[name] for kept in sent)
            assert np.abs(plain - arrived).max() <= np.abs(plain).max() / 127


def refusal(**keys: object) -> str:
    values: dict[str, Any] = {}
    for key, value in keys.items():
        section, _, leaf = key.partition("__")
        (values.setdefault(section, {}) if leaf else values)[leaf or section] = value
    with pytest.raises(UserError) as refused:
        parse_config(values)
    return refused.value.what


@pytest.mark.parametrize(
    ("mechanism", "keys", "words"),
    [
        ("central", {"federation__aggregation": "krum"}, "'krum' is not bounded"),
        ("central", {"federation__large_updates": "clip"}, "federation.large_updates 'accept'"),
        ("central", {"federation__codec": ["topk", "zstd"]}, "federation.codec without 'topk'"),
        ("central", {"federation__aggregation_weights": "rounded"}, "every site counts the same"),
        ("client", {"federation__normalisation": "local"}, "federation.normalisation = 'local' keeps parts"),
        ("client", {"federation__local_parameters": ["mask_decoder.*"]}, "federation.local_parameters keeps parts"),
        ("client", {"federation__shared": "none"}, "federation.shared = 'none' keeps parts"),
        ("central", {"federation__site_students": ["a=unet/mini"]}, "federation.site_students keeps parts"),
        ("client", {"method": "pfedsam"}, "federation.local_parameters keeps parts"),
        ("client", {"data__pooled": True}, "data.pooled makes one of all"),
        ("client", {"method": "public_only"}, "'public_only' has none"),
        ("client", {"privacy__noise_multiplier": 0.0}, "privacy.noise_multiplier"),
        ("central", {"privacy__clip_norm": 0.0}, "privacy.clip_norm"),
        ("client", {"privacy__delta": 0.0}, "privacy.delta"),
    ],
)
def test_what_voids_the_guarantee_is_refused_with_a_sentence(mechanism: str, keys: dict[str, Any], words: str) -> None:
    said = refusal(privacy__mechanism=mechanism, **keys)
    assert words in said
    allowed = {key: value for key, value in keys.items() if not key.startswith("privacy")}
    if allowed and "pooled" not in str(allowed):
        refused_off = {"privacy": {"mechanism": "off"}}
        for key, value in allowed.items():
            section, _, leaf = key.partition("__")
            if leaf:
                refused_off.setdefault(section, {})[leaf] = value
            else:
                refused_off[section] = value
        assert not parse_config(refused_off).privacy.is_on, "without noise it is possible"


@pytest.mark.parametrize("key", ["aggregation", "large_updates", "codec"])
def test_what_only_sees_noised_updates_is_allowed(key: str) -> None:
    value: Any = {"aggregation": "median", "large_updates": "clip", "codec": ["topk", "int8"]}[key]
    assert parse_config({"privacy": {"mechanism": "client"}, "federation": {key: value}}).privacy.is_on


def test_runs_of_before_keep_their_identity() -> None:
    assert RunConfig(privacy=PrivacyConfig()).content_hash() == RunConfig().content_hash()
    assert RunConfig(privacy=CLIENT).content_hash() != RunConfig().content_hash()


@pytest.mark.parametrize(
    ("source", "backend", "system"),
    [("auto", "local", False), ("auto", "superlink", True), ("seed", "superlink", False), ("system", "local", True)],
)
def test_hospitals_draw_noise_that_no_seed_repeats(source: Any, backend: str, system: bool) -> None:
    assert PrivacyConfig(noise_source=source).system_noise(backend) is system


@pytest.mark.parametrize(("source", "told"), [("auto", "system"), ("seed", "seed"), ("system", "system")])
def test_a_site_at_a_hospital_is_told_whose_noise_it_is(source: str, told: str, tmp_path: Path) -> None:
    """What a site gets says that it is in one process: left to that, its noise would be the seed's without a word."""
    values = {
        "backend": "superlink", "server": str(tmp_path), "privacy": {"mechanism": "client", "noise_source": source},
        "generator": {"dp_noise_multiplier": 1.0, "dp_noise_source": source},
    }  # fmt: skip
    there = json.loads(for_sites(parse_config(values), names=["north"], held_out="south"))
    assert there["backend"] == "local"
    assert (there["privacy"]["noise_source"], there["generator"]["dp_noise_source"]) == (told, told)
    plain = json.loads(for_sites(parse_config(values | {"privacy": {}, "generator": {}}), names=["north"], held_out=""))
    assert plain["privacy"] == RunConfig().model_dump(mode="json")["privacy"], "runs of before are told as before"
