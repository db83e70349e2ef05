"""What the page says of models, and of images that a model was not made for."""

from __future__ import annotations

ANYWAY_BUTTON = "Segment anyway"
FOREIGN_TITLE = "This model was not made for this image"
FOREIGN_FIX = "Choose another model or image. Where you know better, press 'Segment anyway': the answer is marked."
FOREIGN_MARK = "Answered although the image is unlike those of training: {why}"
BUSY = "Segmenting with {model} …"
ANSWERED_BY = "by {model}"
