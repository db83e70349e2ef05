"""What the page says of a model's faster variants."""

from __future__ import annotations

FACT = "Variants"
NUMBERS = {"float32": "float32", "int8": "8 bits"}
VARIANT = "{name} ({side} px, {numbers}, {megabytes} MB, {parity} from PyTorch, {time}, {cost})"
TIME = "{ms:.1f} ms by {threads} threads"
TIMES = "{times:.1f} times as fast"
NOT_TIMED, NOT_MEASURED, REFERENCE = "not timed", "Dice not measured", "what the others are compared with"
COST = "{points:+.1f} points of Dice on {images} images"
CHOICE = "variant {name} ({side} px, {times}, {cost})"
ANSWERED = "{model}, variant {variant} ({side} px)"
