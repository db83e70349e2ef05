"""A program that asks toys which never answer, to be killed: ``python ray_killed.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from ray_world import SITES, ones, toy_grid

from engine.federation.rounds import call_once

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    grid = toy_grid(folder, hear=lambda site, _round, _told: print(f"{site} works", flush=True))
    call_once(grid, task="query.x", kind="k", sites=SITES, arrays=ones(), settings={"what": "hang north"})
