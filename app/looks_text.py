"""What the page says of the two ways in which a model looks at an image: as a whole, or in parts."""

from __future__ import annotations

LABEL = "How the model looks"
INFO = (
    "In parts, small things such as cells stay apart in a large image, and it takes longer. Large things need the "
    "whole."
)
CHOICES = (("At the whole, reduced to its size", "whole"), ("In parts, at full resolution", "parts"))
TOLD = "in {parts} parts of {side} x {side} pixels"
REDUCED = (
    "The model saw this image at {percent} % of its size. Where small things have grown together, choose 'In parts, at "
    "full resolution' under step 1."
)
MANY_WHAT = "In parts of {side} x {side} pixels, an image of {width} x {height} pixels has {parts:,} of them."
MANY_WHY = "This page looks at {most:,} parts of one image at most, for others wait meanwhile."
MANY_FIX = "Crop or reduce the image, choose the whole, or use the command line: python -m engine predict --parts."
