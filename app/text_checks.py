"""What the page says of the sites' checks of their generators; all else is in ``app.text``."""

from __future__ import annotations

HEADING = "What the sites measured of their generators before they left"
NOTE = (
    "Pictures stay at the sites. Membership AUC: how well a generator tells training from held-out images, 0.5 is not "
    "at all. Nearest: distance to training over that to held-out images, 1 is as far. Faithful: Dice on drawn images "
    "(on real ones). Fréchet, kernel and FLD are on features of SAM's mini encoder, and depend on how many images there"
    " are."
)
COLUMNS = (
    "Site", "Generator", "Membership AUC", "Copies", "Nearest", "Faithful", "Fréchet", "Kernel", "FLD",
    "Training / held-out images",
)  # fmt: skip
STATE = {"sent": "sent", "withheld": "withheld"}
WITHHELD = "{site} withheld its generator: {reason}."
"""A sentence below the table."""
