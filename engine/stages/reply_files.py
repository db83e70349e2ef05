"""The replies of the round that is under way, each in a file of its own."""

from __future__ import annotations

from engine.errors import UserError
from engine.federation.tasks import SiteReply
from engine.runs.checkpoint import CheckpointStore
from engine.stages.context import RunContext

REPLIES = "federated_replies"


class ReplyFiles:
    """The replies of the round that is under way: each is written once, when it comes, and gone when the round is over.

    A site's number stands for its name, which may hold any letter.
    """

    def __init__(self, context: RunContext) -> None:
        self._checkpoints: CheckpointStore = context.checkpoints
        self._sites = context.sites.names
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
