"""Which mask was probably meant for an image that has none under its name: hints for people, nothing is paired by them.

Names are compared by their words and numbers (``ISIC_0001_seg``: isic, 1, seg), without the words that only say what a
file is (seg). Either nothing else differs, or one of the names has more in front or behind.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection

ROLES = frozenset(
    {
        *("image", "images", "img", "imgs", "im", "pic", "picture", "scan", "orig", "original"),
        *("mask", "masks", "msk", "label", "labels", "lbl", "lab", "seg", "segs", "segmentation", "segmentations"),
        *("gt", "ground", "truth", "groundtruth", "annotation", "annotations", "annot", "anno", "manual", "target"),
    }
)
"""Words that say what a file is, not whose (ours)."""
MAX_MORE_WORDS = 8
"""By how many words a name may be longer than its partner's (ours): names can have a hundred."""
Words = tuple[str, ...]


def meant_masks(images: Collection[str], masks: Collection[str]) -> dict[str, str]:
    """Return the mask meant for each image, of folded stems without a partner; none where another could be, too."""
    words = {name: _words(name) for name in (*images, *masks)}
    meant: dict[str, str] = {}
    for fits in (_equal, _longer):
        lacking = [name for name in images if name not in meant]
        free = set(masks) - set(meant.values())
        meant |= _only_ones(fits({name: words[name] for name in lacking}, {name: words[name] for name in free}))
    return meant


def _words(stem: str) -> Words:
    found = re.findall(r"[^\W\d_]+|\d+", stem)
    return tuple(word.lstrip("0") or "0" if word.isdigit() else word for word in found if word not in ROLES)


def _equal(images: dict[str, Words], masks: dict[str, Words]) -> set[tuple[str, str]]:
    by_image, by_mask = _by_words(images), _by_words(masks)
    return {(image, mask) for words, same in by_image.items() for image in same for mask in by_mask.get(words, ())}


def _longer(images: dict[str, Words], masks: dict[str, Words]) -> set[tuple[str, str]]:
    by_image, by_mask = _by_words(images), _by_words(masks)
    found = {(image, mask) for image, words in images.items() for end in _ends(words) for mask in by_mask.get(end, ())}
    return found | {
        (image, mask) for mask, words in masks.items() for end in _ends(words) for image in by_image.get(end, ())
    }


def _ends(words: Words) -> set[Words]:
    """Return what is left of a name without some words in front, or behind: never nothing."""
    most = min(len(words), MAX_MORE_WORDS + 1)
    return {end for cut in range(1, most) for end in (words[cut:], words[:-cut])}


def _by_words(names: dict[str, Words]) -> dict[Words, list[str]]:
    """Return two names at most of the same words: two are no less ambiguous than ten thousand."""
    found: dict[Words, list[str]] = defaultdict(list)
    for name, words in names.items():
        if len(found[words]) < 2:
            found[words].append(name)
    return found


def _only_ones(pairs: set[tuple[str, str]]) -> dict[str, str]:
    by_image, by_mask = defaultdict(list), defaultdict(list)
    for image, mask in pairs:
        by_image[image].append(mask)
        by_mask[mask].append(image)
    return {image: found[0] for image, found in by_image.items() if len(found) == 1 and len(by_mask[found[0]]) == 1}
