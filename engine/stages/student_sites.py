"""The sites as programs that answer the student's tasks, and the replies of a round as files."""

from __future__ import annotations

from dataclasses import replace

from engine.errors import UserError
from engine.federation.client_app import build_client_app
from engine.federation.grid import InProcessGrid
from engine.federation.student_task import OnSiteStep, make_student_tasks
from engine.federation.tasks import SiteReply
from engine.runs.checkpoint import CheckpointStore
from engine.stages.context import RunContext
from engine.types import Traffic

QUERIES_FROM = 1_000_000
"""Traffic is keyed by round: a query about the model of round r is kept apart from the round's own messages."""
REPLIES = "federated_replies"


def student_grid(context: RunContext, *, on_step: OnSiteStep | None = None) -> InProcessGrid:
    """Return a Grid on which every source site trains, validates and measures the student."""
    sites = context.federation.sites
    tasks = make_student_tasks(
        lambda: context.new_model("student"),
        train={name: site.train for name, site in sites.items()},
        validation={name: site.validation for name, site in sites.items()},
        config=context.config.federation,
        objective=context.objective,
        seed=context.config.seed,
        state_root=context.run_dir / "sites",
        placement=context.placement,
        check_cancelled=context.reporter.check_cancelled,
        on_step=on_step,
    )
    return InProcessGrid(build_client_app(tasks), sites=tuple(sites))


def record_query(context: RunContext, record: Traffic) -> None:
    """Report the bytes of a query about the model of a round; see ``QUERIES_FROM``."""
    context.reporter.traffic(replace(record, round=QUERIES_FROM + record.round))


class ReplyFiles:
    """The replies of the round that is under way: each is written once, when it comes, and gone when the round is over.

    A site's number stands for its name, which may hold any letter.
    """

    def __init__(self, context: RunContext) -> None:
        self._checkpoints: CheckpointStore = context.checkpoints
        self._sites = tuple(context.federation.sites)
        self._warn = lambda text: context.reporter.log("warning", text)

    def save(self, round_number: int, site: str, reply: SiteReply) -> None:
        """Write one reply."""
        content = {"arrays": dict(reply.arrays), "metrics": dict(reply.metrics), "num_examples": reply.num_examples}
        self._checkpoints.save(self._name(round_number, site), {"site": site, **content})

    def load(self, round_number: int) -> dict[str, SiteReply]:
        """Return the replies of a round that have come, and remove every other round's; a damaged one is asked again.

        Asked again, a site starts from its state before the round and gives the same bits.
        """
        kept = {self._name(round_number, site) for site in self._sites}
        for name in set(self._checkpoints.names(REPLIES)) - kept:
            self._checkpoints.delete(name)
        replies = {}
        for site in self._sites:
            name = self._name(round_number, site)
            try:
                state = self._checkpoints.load(name)
            except UserError as error:
                if error.code != "run.checkpoint_damaged":
                    raise
                self._warn(f"{error.what} The site {site} is asked again.")
                self._checkpoints.delete(name)
                continue
            if state is not None and state.pop("site") == site:
                replies[site] = SiteReply(**state)
        return replies

    def clear(self) -> None:
        """Remove all replies: the state after their round is on the disk."""
        self._checkpoints.delete_folder(REPLIES)

    def _name(self, round_number: int, site: str) -> str:
        return f"{REPLIES}/round_{round_number:06d}/site_{self._sites.index(site):04d}"
