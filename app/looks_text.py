"""What the page says of the ways in which a model looks at an image: as a whole, in parts, or in smaller ones."""

from __future__ import annotations

LABEL = "How the model looks"
INFO = (
    "In parts, small things such as cells stay apart in a large image, and it takes longer. Large things need the "
    "whole."
)
CHOICES = (
    ("At the whole, reduced", "whole"),
    ("In parts, at full resolution", "parts"),
    ("In smaller parts, enlarged", "fine"),
)
FACT = "Looks at"
BETTER = {"whole": "the whole image", "parts": "parts of it, at full resolution", "fine": "small parts of it, enlarged"}
MEASURED = "{best}: Dice {whole:.3f} as a whole, {parts:.3f} in parts, {fine:.3f} in smaller ones, {images} images"
TOLD = "in {parts} parts of {side} x {side} pixels"
REDUCED = (
    "The model saw this image at {percent} % of its size. Where small things have grown together, choose 'In parts, at "
    "full resolution' under step 1."
)
TOO_MANY = (
    "In parts this image would have {wanted:,} of {side} x {side} pixels, more than this page waits for: the model saw "
    "the whole, at {percent} % of its size. Cut the image, or use python -m engine predict MODEL IMAGE --looks parts."
)
