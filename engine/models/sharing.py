"""Which arrays of the federated model cross a site's border and are averaged, and which stay at the site. Torch-free.

Three parts of the model's state: *shared* keys travel in every round; *own* keys are each site's, trained or measured
there and kept on its disk; *fixed* keys are frozen parameters that nobody sends, equal everywhere since the first
weights. With everything shared, the default, the other two are empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from engine.config import FederationConfig
from engine.errors import UserError

NAMED_KEYS = 5
"""How many keys a refusal names (ours)."""
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class StateKey:
    """One array of a model's state."""

    name: str
    num_bytes: int
    """Of its data, without name and header."""
    is_buffer: bool = False
    trains: bool = True
    """Whether a gradient reaches it; never of a buffer."""
    normalises: bool = False
    """Whether it belongs to a normalisation layer: its weight, its bias, its running statistics or their counter."""
    num_channels: int = 1
    """Output channels: its first side, where it has more than one."""


@dataclass(frozen=True)
class SharedParameters:
    """The three parts by the names of their keys, each in the order of the model's state."""

    shared: tuple[str, ...]
    own: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    averaged_once: tuple[str, ...] = ()
    """Of ``own``: float arrays of normalisation layers, whose mean over sites a site without its own takes (FedBN);
    what ``local_parameters`` names is none of them."""
    is_personal: bool = False
    """Whether what is each site's own differs between them after a round: more than constant buffers."""

    @property
    def is_everything(self) -> bool:
        """Whether a message has the whole model."""
        return not self.own and not self.fixed

    def of(self, arrays: Mapping[str, _Value]) -> dict[str, _Value]:
        """Return what crosses of a whole state."""
        return {name: arrays[name] for name in self.shared}

    @classmethod
    def choose(cls, keys: Sequence[StateKey], config: FederationConfig, *, model: str) -> SharedParameters:
        """Return the parts of a model with these keys; ``model`` is what a refusal calls it.

        Raises ``UserError`` ``sharing.pattern`` for a pattern that matches no key or every key, and
        ``sharing.nothing`` where a setting leaves nothing that sites learn together or finds nothing to keep.
        """
        for setting in ("shared_parameters", "local_parameters"):
            for pattern in getattr(config, setting) or ():
                _check_pattern(pattern, keys, setting=setting, model=model)
        local_norms = config.normalisation == "local"
        if local_norms and not any(key.normalises for key in keys):
            raise _nothing(
                f"federation.normalisation is 'local', and {model} has no normalisation layer with a state of its own",
                keys,
                fix="Set federation.normalisation to 'average', or choose another student.",
            )
        # Other models have other keys, and a site that learns alone averages none of its own.
        apart = config.site_students is not None or config.shared == "none"
        shared = [key for key in keys if not apart and _is_shared(key, config)]
        crossing = set(_names(shared))
        if not apart and not any(key.trains for key in shared):
            raise _nothing(
                f"Of {model} nothing that is trained is shared under [federation]",
                keys,
                fix="Share more: see federation.shared, shared_parameters, local_parameters and normalisation.",
            )
        rest = [key for key in keys if key.name not in crossing]
        own = [key for key in rest if key.trains or key.is_buffer]
        once = [key for key in own if local_norms and key.normalises and not _matches(key, config.local_parameters)]
        return cls(
            shared=_names(shared),
            own=_names(own),
            fixed=_names(key for key in rest if not (key.trains or key.is_buffer)),
            averaged_once=_names(key for key in once if not key.name.endswith(COUNTER)),
            is_personal=any(key.trains or key.normalises for key in own),
        )


def check_averageable(config: FederationConfig) -> None:
    """Raise ``UserError`` ``sharing.architectures`` where sites have models of different kinds."""
    if config.site_students is None:
        return
    listed = ", ".join(f"{site}: {name}/{size}" for site, (name, size) in config.students.items())
    raise UserError(
        "sharing.architectures",
        what=f"The sites' students are to be averaged, and federation.site_students gives sites others ({listed}).",
        why="An average is taken weight by weight: models of different kinds have no weights in common.",
        fix="Leave federation.site_students out, or choose a method whose sites learn from each other's predictions.",
    )


COUNTER = "num_batches_tracked"
"""BatchNorm's integer, which no mean is taken of."""


def _is_shared(key: StateKey, config: FederationConfig) -> bool:
    learnt = key.trains or (key.is_buffer and key.normalises)  # running statistics, too
    if config.shared == "trainable" and not learnt:
        return False
    if config.shared_parameters is not None and not _matches(key, config.shared_parameters):
        return False
    if config.normalisation == "local" and key.normalises:
        return False
    return not _matches(key, config.local_parameters)


def _matches(key: StateKey, patterns: Iterable[str] | None) -> bool:
    return any(fnmatchcase(key.name, pattern) for pattern in patterns or ())


def _names(keys: Iterable[StateKey]) -> tuple[str, ...]:
    return tuple(key.name for key in keys)


def _check_pattern(pattern: str, keys: Sequence[StateKey], *, setting: str, model: str) -> None:
    count = sum(fnmatchcase(key.name, pattern) for key in keys)
    if 0 < count < len(keys):
        return
    what = "no key" if count == 0 else "every key"
    raise UserError(
        "sharing.pattern",
        what=f"The pattern '{pattern}' in federation.{setting} matches {what} of {model}.",
        why=f"It divides the model into what sites share and what each keeps. {_some(keys)}",
        fix="Write a pattern that some keys match, for instance 'mask_decoder.*' (* stands for any letters).",
    )


def _nothing(what: str, keys: Sequence[StateKey], *, fix: str) -> UserError:
    why = f"Sites learn together what they share, and keep the rest. {_some(keys)}"
    return UserError("sharing.nothing", what=f"{what}.", why=why, fix=fix)


def _some(keys: Sequence[StateKey]) -> str:
    """Return a sentence that names keys from all over the model."""
    step = max(1, len(keys) // NAMED_KEYS)
    return f"It has {len(keys)} keys, among them {', '.join(key.name for key in keys[::step][:NAMED_KEYS])}."
