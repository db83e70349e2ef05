"""A site's own disk: what it keeps of each round (optimiser, own parameters), which never crosses the border by itself.

One safetensors file for each round that the site took part in, written to a temporary name and renamed. The newest
three are kept: the server may fall back to the checkpoint before its last, and the site then needs the state before
that, from however many rounds ago.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.errors import UserError

KEPT_ROUNDS = 3


@dataclass(frozen=True)
class RoundFiles:
    """The files ``NAME_round_*.safetensors`` in ``folder``; ``contents`` is what a person calls them."""

    folder: Path
    name: str
    contents: str

    def save(self, tensors: Mapping[str, Tensor], *, round_number: int, keep: int | None = None) -> None:
        """Write the state after ``round_number`` atomically; drop those of later rounds and all but the newest three.

        However many rounds ago those were; the state that held in round ``keep`` stays as well.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(round_number)
        temporary = path.with_suffix(".part")
        try:
            with temporary.open("wb") as file:
                file.write(save(dict(tensors), metadata={"sha256": _digest(tensors)}))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:  # a part that a full disk has cut off would keep it full
            temporary.unlink(missing_ok=True)
        saved = self._rounds()
        kept = {number for number in saved if number <= round_number}
        kept = {*sorted(kept)[-KEPT_ROUNDS:], 0 if keep is None else self.newest(before=keep + 1)}
        for number in set(saved) - kept:
            self._path(number).unlink()

    def carry(self, *, round_number: int) -> None:
        """Let the newest state from before the round stand as the one after it, until that is saved; or an empty one.

        For what must not fall behind other files of the round, whichever of them is written last.
        """
        number, path = self.newest(before=round_number), self._path(round_number)
        if not number:
            self.save({}, round_number=round_number)
            return
        path.unlink(missing_ok=True)
        try:
            os.link(self._path(number), path)
        except OSError:  # a file system without hard links
            temporary = path.with_suffix(".part")
            shutil.copyfile(self._path(number), temporary)
            temporary.replace(path)

    def newest(self, *, before: int) -> int:
        """Return the last round below ``before`` that left a state, 0 where there is none."""
        return max((number for number in self._rounds() if number < before), default=0)

    def load(self, *, before: int) -> tuple[int, dict[str, Tensor]]:
        """Return the newest state from before the round ``before`` and its round; 0 and nothing where there is none.

        Looking before a round only makes one that is run again start as it did the first time. Raises ``UserError``
        ``federation.site_state_damaged`` for a file that is not what was written.
        """
        number = self.newest(before=before)
        return number, self._read(self._path(number)) if number else {}

    def _read(self, path: Path) -> dict[str, Tensor]:
        try:
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
                expected = (file.metadata() or {}).get("sha256")
        except SafetensorError as error:
            raise self._damaged(path) from error
        if expected is not None and expected != _digest(tensors):
            raise self._damaged(path)
        return tensors

    def _damaged(self, path: Path) -> UserError:
        return UserError(
            "federation.site_state_damaged",
            what=f"{self.contents} of a site is damaged: {path}.",
            why="Its checksum does not fit; training with it would go another way without a word.",
            fix="Put the file back from a copy; or delete it and resume: the round then begins with the state of the "
            "round before, and differs a little from the run that was not disturbed.",
        )

    def _path(self, round_number: int) -> Path:
        return self.folder / f"{self.name}_round_{round_number:06d}.safetensors"

    def _rounds(self) -> list[int]:
        paths = self.folder.glob(f"{self.name}_round_*.safetensors")
        return sorted(int(path.stem.rsplit("_", 1)[1]) for path in paths)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].numpy().tobytes())
    return digest.hexdigest()
