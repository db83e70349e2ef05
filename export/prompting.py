"""Answers clicks with a bundle's second decoder: the encoder runs once for an image, the decoder for a click.

What the encoder gave is kept by the hash of the image, within a budget of bytes that all visitors of a page share.
Torch-free. Shape legend: H and W the image's side in pixels, K classes, C features, h and w the features' grid, g the
decoder's, N points.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from cachetools import LRUCache

from engine.data.prompt_maps import prompt_map
from engine.data.tiling import Looks, View, resize_logits
from engine.errors import UserError
from export.clicks import Click
from export.manifest import EMBEDDING_NAME, LABELS_NAME, MASK_NAME, OUTPUT_NAME, POINTS_NAME
from export.runtime import BundleSession, check_image, load_graph

KEPT_BYTES = 64 * 2**20
"""Features, and what the decoder answered, of all visitors together (ours): 80 images of a mini model, 12 of TinySAM's
at 1024 px. What was asked for longest ago goes first."""
MOST_CLICKS = 16
"""Of one class that the decoder is given, the latest (ours)."""
LABELS = {"remove": 0, "add": 1}


@dataclass(frozen=True, eq=False)
class Seen:
    """One model input: its features (C, h, w) and the model's own logits without prompts (K, g, g), float32 both."""

    features: np.ndarray
    logits: np.ndarray

    @property
    def nbytes(self) -> int:
        """Return what it takes."""
        return self.features.nbytes + self.logits.nbytes


class KeptArrays:
    """What was worked out lately, by keys; safe to use from several threads, never above its budget of bytes."""

    def __init__(self, budget_bytes: int = KEPT_BYTES) -> None:
        self._kept: LRUCache[Hashable, Seen | np.ndarray] = LRUCache(budget_bytes, getsizeof=lambda one: one.nbytes)
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Seen | np.ndarray | None:
        """Return what is kept under a key, None where nothing is."""
        with self._lock:
            return self._kept.get(key)

    def put(self, key: Hashable, found: Seen | np.ndarray) -> None:
        """Keep something, unless it is larger than the whole budget."""
        if found.nbytes <= self._kept.maxsize:
            with self._lock:
                self._kept[key] = found

    @property
    def num_bytes(self) -> int:
        """Return what all of it takes."""
        return int(self._kept.currsize)


class Prompter:
    """A model's encoder and the decoder that answers prompts, with what they gave lately.

    Nothing of one visitor reaches another: keys hold the hash of all pixels, so who asks has the image, and what is
    kept is a function of model, image and prompts alone. An answer without prompts never looks here, so its time says
    nothing about what others have sent.
    """

    def __init__(self, session: BundleSession, decoder: onnxruntime.InferenceSession, kept: KeptArrays) -> None:
        assert session.manifest.prompts is not None and session.variant.name == "full"
        self.session, self.decoder, self.kept = session, decoder, kept
        files = session.manifest.files
        self._model = (files[session.variant.file].sha256, files[session.manifest.prompts.file].sha256)

    def first(self, image_HW3: np.ndarray, image_key: str) -> np.ndarray:
        """Return the logits (K, g, g) of the whole of an image without prompts, and keep its features for those to
        come.

        Raises as ``BundleSession.predict``.
        """
        check_image(image_HW3)
        seen = Seen(*self.session.encode(self.session.preprocess(image_HW3)))
        self.kept.put((self._model, image_key, "whole", (0, 0)), seen)
        return seen.logits

    def logits(
        self,
        clicks: Sequence[Click],
        class_index: int,
        *,
        rows: slice,
        columns: slice,
        image_key: str,
        size_hw: tuple[int, int],
        looks: Looks,
        read: Callable[[], np.ndarray],
    ) -> tuple[np.ndarray, slice, slice]:
        """Return the logits of a class in a window of the image, (rows, columns) float32, and the window that was seen.

        The model looks at the square around the last of the ``clicks``; those of them that lie in it count, the latest
        ``MOST_CLICKS``. ``read`` gives the image (H, W, 3), and is called where its features are not kept any more.

        Raises
        ------
        UserError
            ``prompt.other_image`` where ``read`` gives another image than the one of ``image_key``; what it raises.
        """
        eye = self.session.manifest.eye
        view = eye.view_at(size_hw, looks, _place(clicks[-1]))
        key = (self._model, image_key, looks, view.place)
        seen = self._seen(key, looks, view, image_key=image_key, read=read)
        points, labels = _as_points([one for one in clicks if view.has(_place(one))][-MOST_CLICKS:], view)
        answered_gg = self._answered(key, class_index, seen, points, labels)
        rows, columns = view.within(rows, columns)
        part = view.part_of(rows, columns)
        window_hw = (rows.stop - rows.start, columns.stop - columns.start)
        return resize_logits(answered_gg[None], size_hw=window_hw, part=part)[0], rows, columns

    def _seen(self, key: Hashable, looks: Looks, view: View, *, image_key: str, read: Callable[[], np.ndarray]) -> Seen:
        seen = self.kept.get(key)
        if isinstance(seen, Seen):
            return seen
        image_HW3 = read()
        if key_of(image_HW3) != image_key:
            raise UserError(
                "prompt.other_image",
                what="The image is not the one that was segmented any more.",
                why="A click is answered by what the model saw of the image, which has to be looked at again here.",
                fix="Segment the image again.",
            )
        image_13gg = self.session.manifest.eye.input_of(image_HW3, looks, view)
        seen = Seen(*self.session.encode(image_13gg))
        self.kept.put(key, seen)
        return seen

    def _answered(
        self, key: Hashable, class_index: int, seen: Seen, points_N2: np.ndarray, labels_N: np.ndarray
    ) -> np.ndarray:
        """Return the decoder's logits (g, g) of a class."""
        asked = (key, class_index, points_N2.tobytes(), labels_N.tobytes())
        found = self.kept.get(asked)
        if isinstance(found, np.ndarray):
            return found
        stride = self.session.manifest.mask_stride
        drawn_gg = prompt_map(seen.logits[class_index], points_N2, labels_N, stride=stride)
        given = {EMBEDDING_NAME: seen.features[None], POINTS_NAME: points_N2[None], LABELS_NAME: labels_N[None],
                 MASK_NAME: drawn_gg[None, None]}  # fmt: skip
        answered_gg = np.ascontiguousarray(self.decoder.run([OUTPUT_NAME], given)[0][0, class_index])
        self.kept.put(asked, answered_gg)
        return answered_gg


def load_prompter(
    folder: Path, session: BundleSession, *, threads: int | None = None, kept: KeptArrays | None = None
) -> Prompter | None:
    """Return what answers prompts for the bundle in ``folder``, whose ``session`` runs the model itself; None where it
    was not taught any. Raises ``UserError`` ``bundle.corrupted``.
    """
    prompts = session.manifest.prompts
    if prompts is None:
        return None
    decoder = load_graph(folder / prompts.file, device="auto", threads=threads)
    return Prompter(session, decoder, KeptArrays() if kept is None else kept)


def key_of(image_HW3: np.ndarray) -> str:
    """Return a name of an image by its shape, type and every pixel."""
    digest = hashlib.sha256(f"{image_HW3.shape} {image_HW3.dtype}".encode())
    digest.update(np.ascontiguousarray(image_HW3).data)
    return digest.hexdigest()


def _place(click: Click) -> tuple[float, float]:
    return float(click.row), float(click.column)


def _as_points(clicks: Sequence[Click], view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return points (N, 2), (x, y) in pixels of the model's input from the middle of its first one, and labels (N,)."""
    places = [view.input_place(one.row + 0.5, one.column + 0.5) for one in clicks]
    labels = [LABELS[one.kind] for one in clicks]
    return np.array(places, np.float32).reshape(-1, 2) - np.float32(0.5), np.array(labels, np.int64)
