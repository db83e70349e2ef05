"""How far a stage is in which several sites may work at a time."""

from __future__ import annotations


class SiteProgress:
    """The sum of what the sites have done of one question each."""

    def __init__(self) -> None:
        self._round = 0
        self._done: dict[str, float] = {}

    def done(self, site: str, round_number: int, share: float) -> float:
        """Return how many sites' work of the round is done by now, where ``site`` has done ``share`` of its own."""
        if round_number != self._round:
            self._round, self._done = round_number, {}
        self._done[site] = max(share, self._done.get(site, 0.0))
        return sum(self._done.values())

    def answered(self, site: str, round_number: int) -> None:
        """Count a site that needs not be asked, or has answered."""
        self.done(site, round_number, 1.0)
