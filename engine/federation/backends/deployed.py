"""Sites at other machines, each a program of its own that asks a SuperLink for questions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from engine.config import RunConfig
from engine.errors import UserError
from engine.federation.backends.answered import AnsweredRounds, AnsweringPrograms
from engine.federation.backends.approval import TAKES_PART_FILE, Approvals
from engine.federation.backends.asked_again import AskedAgain
from engine.federation.backends.how_far import HowFar
from engine.federation.backends.participants import for_sites, participants
from engine.federation.backends.superlink import Link, SuperlinkGrid
from engine.federation.checks import bad_reply
from engine.federation.descriptions import DatasetAgreement, FederationDescription, SiteDescription
from engine.federation.payload import PROGRAM_RECORD, RUN_RECORD, TOLD_RECORD
from engine.federation.rounds import call_once
from engine.federation.sites import Desk, Quiet, Server, SiteListener
from engine.federation.tasks import APPROVAL, DESCRIBE, READ_EVERYTHING, SiteReply
from engine.types import Traffic
from engine.version import check_same, program_version

PRESENCE_S = 600.0
"""How long a run waits for sites that are not connected (ours)."""
CURVES, MAX_POINTS = ("loss",), 100_000
"""Curves that a site may tell beside its reply, and their points (ours)."""
NOTE, ANSWERED_FILE = "flower_run.txt", "answered.json"


class ServersTest(Protocol):
    """A test set of the server's own, as sites of this process that are asked beside those elsewhere."""

    name: str
    digest: str

    @property
    def descriptions(self) -> tuple[SiteDescription, ...]:
        """What the run may know of each of its sites."""

    @property
    def grid(self) -> Grid:
        """Where its sites are asked."""

    def nodes(self, sites: Sequence[str]) -> Mapping[str, int]:
        """Return the node of each of ``sites`` that is one of its own."""

    def read_everything(self, *, on_image: Callable[[int, int], None]) -> list[str]:
        """Read every image once; return warnings."""


class OpenTest(Protocol):
    """Opens the server's test set for sites ``sources`` that have told ``about`` of their dataset."""

    def __call__(
        self,
        about: DatasetAgreement,
        *,
        sources: Sequence[str],
        listener: Callable[[], SiteListener],
        check_cancelled: Callable[[], None],
    ) -> ServersTest:
        """Open it; ``UserError`` ``data.*`` where it cannot be used."""


class DeployedBackEnd:
    """The sites of a federation, over its SuperLink.

    Parameters
    ----------
    link : Link
        Where the SuperLink is.
    keys : mapping
        Public key of each site that may take part, by name.
    run_id : str
        Under which sites keep the state of this run.
    note : Path, optional
        Where the Flower run is remembered, see :class:`SuperlinkGrid`.
    state_root : Path, optional
        Where the server keeps what it knows of the sites' rounds.
    open_test : callable
        Opens the test set of the server's own, from what sites have told of their dataset, where the protocol has one.
    presence_s : float
        How long to wait for sites that are not connected.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        link: Link,
        keys: Mapping[str, bytes],
        run_id: str,
        server: Callable[[], Server],
        note: Path | None = None,
        state_root: Path | None = None,
        open_test: OpenTest,
        presence_s: float = PRESENCE_S,
    ) -> None:
        self._server, self._run_id = server, run_id
        self._listener: SiteListener = Quiet()
        names, held_out = participants(config, keys)
        record = {
            "id": run_id,
            "program": program_version(),
            "config": for_sites(config, names=names, held_out=held_out),
        }
        answered = AnsweredRounds(None if state_root is None else state_root / ANSWERED_FILE)
        own = {name: key for name, key in keys.items() if name in names}
        self.grid = _RunGrid(
            link, keys=own, note=note, run=record, answered=answered, presence_s=presence_s, back_end=self
        )
        self.grid.__enter__()
        try:
            datasets, sites = self._told(names, held_out)
            about = datasets[names[0]]
            if not held_out:
                self.grid.beside = open_test(
                    about, sources=names, listener=lambda: self._listener, check_cancelled=self.check_cancelled
                )
            self.description = self._described(datasets[held_out] if held_out else about, sites, held_out)
            if note is not None:  # a run, and not only its plan
                self._leave_out_who_refuses(config, None if state_root is None else state_root / TAKES_PART_FILE)
            self.grid.goes_on_without = config.federation.on_failure == "skip"
        except BaseException:
            self.close()
            raise

    def listen(self, listener: SiteListener) -> None:
        """Hand on what sites tell to ``listener`` from now on; they tell it with their replies."""
        self._listener = listener

    def tell_progress(self, site: str, round_number: int, step: int, total: int) -> None:
        """Hand on how far a site is."""
        self._listener.progress(site, round_number, step, total)

    def count(self, record: Traffic) -> None:
        """Hand on bytes that went beside a question."""
        self._server().traffic(record)

    def beside(self, desk: Desk) -> Grid:
        """Return the same grid: sites do such work in a process beside their program, and say how far it is."""
        self.grid.again = AskedAgain(desk)
        return self.grid

    @contextmanager
    def heard_by(self, listener: SiteListener) -> Iterator[None]:
        """Hand on what sites tell to ``listener`` within the block."""
        usual, self._listener = self._listener, listener
        try:
            yield
        finally:
            self._listener = usual

    def read_everything(self, *, on_image: Callable[[int, int], None]) -> list[str]:
        """Let every site read all its images once; ``on_image`` counts sites here, a fixed test set's images first."""
        beside = self.grid.beside
        warnings = beside.read_everything(on_image=on_image) if beside is not None else []
        asked = self.description.sources if beside is not None else (*self.description.sources, *self.description.tests)
        sites = [site.name for site in asked]
        answered: list[str] = []

        def count(_round: int, site: str, _reply: SiteReply) -> None:
            answered.append(site)
            on_image(len(answered), len(sites))

        with self.heard_by(Quiet()):  # whoever listened last has asked something else
            self._ask(READ_EVERYTHING, sites, on_reply=count)
        return warnings

    def check_cancelled(self) -> None:
        """Raise RunCancelled when a stop was asked for."""
        self._server().check_cancelled()

    def tell(self, site: str, told: ConfigRecord) -> None:
        """Hand on the points of a site's curves."""
        columns = [cast(list[Any], told.get(key, [])) for key in ("names", "values", "steps")]
        points = list(zip(*columns, strict=False))
        usual = len({len(column) for column in columns}) == 1 and len(points) <= MAX_POINTS
        if not usual or not all(_is_point(*point) for point in points):
            raise bad_reply(site, round_number=0, problem="the curves that it tells cannot be")
        for name, value, step in points:
            self._listener.metric(site, str(name), float(value), int(step))

    def last_seen(self) -> Mapping[str, float]:
        """Return when each site was last connected; nothing while the server cannot say, which who waits will hear."""
        try:
            nodes = self.grid.nodes()
        except UserError:
            return {}
        return {name: node.last_seen for name, node in nodes.items() if node.last_seen is not None}

    def close(self) -> None:
        """End the Flower run and the connection."""
        self.grid.__exit__(None, None, None)

    def _ask(self, task: str, sites: Sequence[str], **how: Any) -> dict[str, SiteReply]:
        return call_once(
            self.grid, task=task, kind="metrics", sites=sites, check_cancelled=self._server().check_cancelled, **how
        )

    def _leave_out_who_refuses(self, config: RunConfig, kept: Path | None) -> None:
        """Go on with the sites that allow the run, once all have decided."""
        approvals = Approvals(
            partial(self._ask, APPROVAL), config=config.federation, run_id=self._run_id, server=self._server, kept=kept
        )
        known = self.description
        elsewhere = () if known.test_at_server else known.tests
        names = approvals.wait(known.sources, tests=elsewhere)
        self.description = replace(known, sources=tuple(site for site in known.sources if site.name in names))

    def _told(
        self, names: Sequence[str], held_out: str
    ) -> tuple[dict[str, DatasetAgreement], dict[str, SiteDescription]]:
        """Return what each site has told of the dataset and of itself; ``UserError`` where they do not agree."""
        datasets: dict[str, DatasetAgreement] = {}
        sites: dict[str, SiteDescription] = {}
        for site, reply in self._ask(DESCRIBE, names).items():
            role = "test" if site == held_out else "source"
            check_same(reply.texts.get("program", ""), site=site, at_site=False)
            try:
                datasets[site] = DatasetAgreement.from_site(reply.texts.get("dataset", ""))
                told = reply.texts.get("description", "")
                sites[site] = SiteDescription.from_site(told, name=site, role=role)
            except ValueError as error:
                raise bad_reply(site, round_number=0, problem=str(error)) from error
        _check_alike(datasets)
        return datasets, sites

    def _described(
        self, about: DatasetAgreement, sites: Mapping[str, SiteDescription], held_out: str
    ) -> FederationDescription:
        beside = self.grid.beside
        tests = (sites[held_out],) if beside is None else beside.descriptions
        return FederationDescription(
            about.name,
            about.task,
            about.modality,
            about.classes,
            tuple(sites[name] for name in sorted(sites) if name != held_out),
            tests,
            held_out if beside is None else beside.name,
            tests[0].digests.get("test", "") if beside is None else beside.digest,
            beside is not None,
            about.value_range,
            about.slice_axis,
            about.window,
        )


class _RunGrid(SuperlinkGrid):
    """A Grid whose messages say which run asks, and whose replies bring what sites told while they worked."""

    def __init__(
        self,
        link: Link,
        *,
        keys: Mapping[str, bytes],
        note: Path | None,
        run: Mapping[str, str],
        answered: AnsweredRounds,
        presence_s: float,
        back_end: DeployedBackEnd,
    ) -> None:
        self._run_record, self._answered, self._back_end = dict(run), answered, back_end
        self.beside: ServersTest | None = None
        """Sites of this process: those of a test set of the server's own."""
        self.again: AskedAgain | None = None
        """Questions about work beside the rounds."""
        self._here: set[str] = set()
        self._programs = AnsweringPrograms()
        self._how_far = HowFar(run["id"], tell=back_end.tell_progress, count=back_end.count)
        super().__init__(link, keys=keys, note=note, presence_s=presence_s, check=back_end.check_cancelled)

    def site_nodes(self, sites: Sequence[str], *, wait_s: float) -> dict[str, int]:
        here = dict(self.beside.nodes(sites)) if self.beside is not None else {}
        away = [site for site in sites if site not in here]
        return here | (super().site_nodes(away, wait_s=wait_s) if away else {})

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = list(messages)
        if self.beside is not None and sent and self._all_here(sent):
            keys = list(self.beside.grid.push_messages(sent))
            self._here.update(keys)
            return keys
        names = {node_id: name for name, node_id in self.known.items()}
        for message in sent:
            answered = json.dumps(self._answered.of(names[message.metadata.dst_node_id]))
            message.content[RUN_RECORD] = ConfigRecord({**self._run_record, "answered": answered})
        if self.again is not None and self.again.asks(sent):
            return self.again.push(sent, super().push_messages, sites=names)
        keys = super().push_messages(sent)
        self._how_far.begun(sent, keys, sites=names)
        self._how_far.ask(super().push_messages)
        return keys

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        keys = list(message_ids)
        if self.beside is not None and self._here.intersection(keys):
            return list(self.beside.grid.pull_messages(keys))
        if self.again is not None and self.again.knows(keys):
            return self._pulled_again(self.again, keys)
        replies = []
        for reply in super().pull_messages([*keys, *self._how_far.keys]):
            if not self._how_far.heard(reply):
                self._how_far.ended(reply.metadata.reply_to_message_id)
                replies.append(reply)
        self._how_far.ask(super().push_messages)
        return replies

    def _pulled_again(self, again: AskedAgain, keys: Sequence[str]) -> list[Message]:
        again.push_due(super().push_messages)
        waiting = again.sent(keys)
        with self._back_end.heard_by(again.desk.listener):
            replies = super().pull_messages(waiting) if waiting else []
        return [found for reply in replies if (found := again.answered(reply)) is not None]

    def _all_here(self, sent: Sequence[Message]) -> bool:
        """Return whether the messages are for sites of this process: a question goes to these or to the others."""
        assert self.beside is not None
        here = {message.metadata.dst_node_id for message in sent} & set(self.beside.grid.get_node_ids())
        assert not here or len(here) == len(sent), "one question, to a test set at the server and to sites elsewhere"
        return bool(here)

    def opened(self, reply: Message) -> None:
        site = next(name for name, node_id in self.known.items() if node_id == reply.metadata.src_node_id)
        if TOLD_RECORD in reply.content:
            self._back_end.tell(site, cast(ConfigRecord, reply.content.pop(TOLD_RECORD)))
        if PROGRAM_RECORD in reply.content:
            self._programs.note(site, str(cast(ConfigRecord, reply.content.pop(PROGRAM_RECORD)).get("id", "")))
        about = reply.metadata  # of a progress report nothing is noted: it ends no question
        self._answered.note(site, about.message_type, int(about.group_id or 0))


def _is_point(name: object, value: object, step: object) -> bool:
    figures = isinstance(value, float) and math.isfinite(value) and isinstance(step, int) and step >= 0
    return name in CURVES and figures


def _check_alike(datasets: Mapping[str, DatasetAgreement]) -> None:
    """Raise ``UserError`` ``federation.sites_differ`` where sites do not agree on what is segmented in what."""
    first, expected = next(iter(datasets.items()))
    for site, about in datasets.items():
        for key in ("task", "modality", "classes", "value_range", "slice_axis", "window"):
            one, two = getattr(expected, key), getattr(about, key)
            if one != two:
                raise UserError(
                    "federation.sites_differ",
                    what=f"Sites {first} and {site} differ in {key}: {one} and {two}.",
                    why="One model is trained on the images of all sites, which must show and mark the same.",
                    fix="Give the dataset.toml of both the same lines.",
                )
