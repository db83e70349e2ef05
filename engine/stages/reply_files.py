"""The replies of the round that is under way, each in a file of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.errors import UserError
from engine.federation.tasks import BEGAN_ANEW, SiteReply
from engine.runs.checkpoint import CheckpointStore
from engine.stages.context import RunContext

REPLIES = "federated_replies"
ARRAYS = "arrays"


@dataclass(frozen=True)
class Asked:
    """The sites that a round asks, of the ``draw``-th draw; ``failed`` where too few of them have answered."""

    sites: tuple[str, ...]
    draw: int = 0
    failed: bool = False


class ReplyFiles:
    """The replies of the round that is under way: each is written once, when it comes, and gone when the round is over.

    Their arrays are read from there when the round is averaged: none waits in memory. A site's number stands for its
    name, which may hold any letter.
    """

    def __init__(self, context: RunContext) -> None:
        self._checkpoints: CheckpointStore = context.checkpoints
        self._sites = {site: place for place, site in enumerate(context.sites.names)}
        self._warn = lambda text: context.reporter.log("warning", text)

    def save(self, round_number: int, site: str, reply: SiteReply) -> SiteReply:
        """Write one reply; return the same one, its arrays in the file. A site that has begun anew is told of."""
        if BEGAN_ANEW in reply.texts:
            by = f"{reply.texts[BEGAN_ANEW]!r:.60}"
            self._warn(f"Round {round_number}: {site} has begun its own state anew; {by} has accepted it there.")
        content = {"arrays": dict(reply.arrays), "metrics": dict(reply.metrics), "num_examples": reply.num_examples}
        name = self._name(round_number, site)
        self._checkpoints.save(name, {"site": site, **content})
        stored = self._checkpoints.load(name, leave=ARRAYS, verify=False)
        assert stored is not None
        return replace(reply, arrays=stored[ARRAYS])

    def note_asked(self, round_number: int, asked: Asked) -> None:
        """Write down which sites the round asks: going on after a kill it asks the same, whoever is there then."""
        about = {"sites": list(asked.sites), "draw": asked.draw, "failed": asked.failed}
        self._checkpoints.save(self._asked(round_number), about)

    def asked(self, round_number: int) -> Asked | None:
        """Return what :meth:`note_asked` has noted of the round, None where it has not begun."""
        noted = self._checkpoints.load(self._asked(round_number))
        if noted is None:
            return None
        return Asked(tuple(noted["sites"]), noted.get("draw", 0), noted.get("failed", False))

    def load(self, round_number: int) -> dict[str, SiteReply]:
        """Return the replies of a round that have come, and remove every other round's; a damaged one is asked again.

        Asked again, a site starts from its state before the round and gives the same bits.
        """
        kept = {self._asked(round_number), *(self._name(round_number, site) for site in self._sites)}
        for name in set(self._checkpoints.names(REPLIES)) - kept:
            self._checkpoints.delete(name)
        replies = {}
        for site in self._sites:
            name = self._name(round_number, site)
            try:
                state = self._checkpoints.load(name, leave=ARRAYS)
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

    def _asked(self, round_number: int) -> str:
        return f"{REPLIES}/round_{round_number:06d}/asked"

    def _name(self, round_number: int, site: str) -> str:
        return f"{REPLIES}/round_{round_number:06d}/site_{self._sites[site]:04d}"
