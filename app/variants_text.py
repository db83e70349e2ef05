"""What the page says of a model's faster variants."""

from __future__ import annotations

FACT = "Variants"
VARIANT = "{name} {side} px, {time}, {cost}"
TIME = "{ms:.1f} ms"
THREADS = ". Threads: {threads}. Sizes and differences to PyTorch are in the model card."
TIMES = "{times:.1f} times as fast"
NOT_TIMED, NOT_MEASURED, REFERENCE = "not timed", "Dice not measured", "the model itself"
COST = "{points:+.1f} points of Dice"
CHOICE = "by {name}: {times}, {cost}"
ANSWERED = "{model}, variant {variant} ({side} px)"
