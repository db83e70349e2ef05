"""What a site lets a run do: rules in ``policy.toml``, and a decision for each run where they say so."""

from __future__ import annotations

import difflib
import fcntl
import getpass
import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import UserError
from engine.federation.release import Limits
from engine.methods import catalogue

FILE = "policy.toml"
State = Literal["waiting", "approved", "refused"]
MAX_REASON_LETTERS = 500
HELD = "held"
"""Of a run that asks: somebody has refused it, or kept something of it back, with the settings of before."""


class Policy(BaseModel):
    """The site's rules; what is not in the file is as here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    approval: Literal["each_run", "automatic"] = Field(
        "each_run", description="Somebody here approves each run, or every run that keeps the rules takes part"
    )
    kinds: tuple[str, ...] | None = Field(None, description="Kinds of content that may leave; all when left out")
    smallest_images: int = Field(
        1, ge=1, strict=True, description="Training images below which nothing learnt from them leaves"
    )
    generators: Literal["as_asked", "checked"] = Field(
        "as_asked", description="checked: a generator leaves only after its memorisation was measured, within limits"
    )
    most_membership_auc: float = Field(
        0.9, ge=0.5, le=1, strict=True, description="checked: limit of the membership-inference AUC"
    )
    most_copies: int | None = Field(None, ge=0, strict=True, description="checked: limit of copies of training images")
    most_megabytes: float | None = Field(
        None, gt=0, strict=True, allow_inf_nan=False, description="Most that may leave in one run, 10^6 bytes"
    )

    @property
    def limits(self) -> Limits | None:
        """What a generator is held to here, whatever a run asks for."""
        return Limits(self.most_membership_auc, self.most_copies) if self.generators == "checked" else None


def read_policy(folder: Path) -> Policy:
    """Return the rules of the site's ``folder``, the defaults where it has no file of them.

    ``UserError`` ``site.policy_invalid`` names what is wrong.
    """
    path = folder / FILE
    try:
        policy = Policy(**_written(path)) if os.path.lexists(path) else Policy()
        unknown = sorted(set(policy.kinds or ()) - set(catalogue.kinds()))
        problem = f"there is no kind '{unknown[0]}'{_nearest(unknown[0], catalogue.kinds())}" if unknown else None
    except ValidationError as error:
        problem = _in_words(error)
    except tomllib.TOMLDecodeError as error:
        problem = f"it is no TOML: {error}"
    except UnicodeDecodeError:
        problem = "it is no text in UTF-8"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem is not None:
        raise UserError(
            "site.policy_invalid",
            what=f"{path} cannot be used: {problem}.",
            why="Without clear rules this site takes part in nothing.",
            fix=f"Correct it; its keys are {', '.join(Policy.model_fields)}, and kinds are "
            f"{', '.join(catalogue.kinds())}.",
        )
    return policy


def _written(path: Path) -> dict[str, Any]:
    """Return what the file of rules says. Whatever else has its name was meant to be one: a folder that Docker makes
    where nothing is to be mounted, or a link to a file that is gone."""
    if not path.exists():
        raise OSError("it is a link to something that is not there")
    if not path.is_file():
        raise OSError("it is no file")
    return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # as editors of Windows save it


def _in_words(error: ValidationError) -> str:
    first = error.errors()[0]
    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"there is no key '{key}'{_nearest(key, Policy.model_fields)}"
    value = first["input"]
    told = str(value).lower() if isinstance(value, bool) else f"{value!r:.40}"
    return f"{key} has {told} where {EXPECTED[key]} is expected"


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; the nearest is '{close[0]}'" if close else ""


EXPECTED = {
    "approval": "'each_run' or 'automatic'",
    "kinds": "a list of names such as ['student', 'figures']",
    "smallest_images": "a whole number of 1 or more",
    "generators": "'as_asked' or 'checked'",
    "most_membership_auc": "a number from 0.5 to 1",
    "most_copies": "a whole number of 0 or more",
    "most_megabytes": "a number above 0, and not inf,",
}
"""What each key of the rules can be, as a person is told."""


class Decisions:
    """Which runs have asked to take part, and what somebody has decided, below the site's folder.

    A decision holds for one run with one configuration: asked with another, for instance for more rounds, the run
    waits again. Rules decide where nobody has: once somebody has refused a run, or kept something of it back, they do
    not approve it with other settings, or one more round would undo a refusal; nor its settings under another name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "decisions"

    def ask(self, run_id: str, config: str, *, kinds: tuple[str, ...]) -> None:
        """Note that a run asks, with what it would send; nothing changes where it has asked the same before."""
        if self._has_asked(run_id, config):
            return
        with self._locked():
            if self._has_asked(run_id, config):
                return
            about = {"run": run_id, "config": identity(config), "kinds": list(kinds), "settings": config}
            about |= {"asked_at": _now(), "state": "waiting", "by": "", "reason": ""}
            self._write(run_id, {**about, HELD: self._is_held_back(run_id, config)})

    def decide(
        self, run_id: str, state: State, *, reason: str = "", by: str | None = None, without: Sequence[str] = ()
    ) -> dict:
        """Approve or refuse a run that has asked, and return what is noted of it; kinds ``without`` do not leave in it.

        Raises ``UserError`` ``site.no_such_run`` for one that has not.
        """
        with self._locked():
            known = self._read(run_id)
            if known is None:
                raise self._no_such_run(run_id)
            who = by if by is not None else getpass.getuser()
            decided = {"state": state, "by": who, "decided_at": _now(), "reason": reason[:MAX_REASON_LETTERS]}
            noted = {**known, **decided, "without": sorted(set(without)), HELD: False}
            self._write(run_id, noted)
        return noted

    def state(self, run_id: str, config: str) -> tuple[State, str, str]:
        """Return (state, who decided, reason) of a run with this configuration."""
        known = self._read(run_id)
        if known is None or known["config"] != identity(config):
            return "waiting", "", ""
        return known["state"], known["by"], known["reason"]

    def rules_decide(self, run_id: str, config: str) -> bool:
        """Return whether it is left to the rules to approve a run with this configuration."""
        known = self._read(run_id)
        if known is None or known["config"] != identity(config):
            return not self._is_held_back(run_id, config)
        return known["state"] == "waiting" and not known.get(HELD, False)

    def without(self, run_id: str, config: str) -> tuple[str, ...]:
        """Return the kinds that do not leave in a run with this configuration though it is approved."""
        known = self._read(run_id)
        if known is None or known["config"] != identity(config) or known["state"] != "approved":
            return ()
        return tuple(known.get("without", ()))  # decisions of before have none

    def find(self, run_id: str) -> str:
        """Return the id of a run that has asked, of the latest to ask for ``last``.

        Raises ``UserError`` ``site.no_such_run`` for one that has not.
        """
        asked = self.all() if run_id == "last" else ()
        found = asked[0]["run"] if asked else run_id
        if self._read(found) is None:
            raise self._no_such_run(run_id)
        return str(found)

    def settings_of(self, run_id: str) -> tuple[str, list[str]]:
        """Return the settings that a run has asked with, and the kinds that it would send; both empty for no run."""
        known = self._read(run_id)
        return ("", []) if known is None else (known["settings"], known["kinds"])

    def all(self) -> list[dict]:
        """Return what is noted of every run, the latest to ask first."""
        found = [_noted(path) for path in self._folder.glob("*.json")]
        return sorted(found, key=lambda run: run["asked_at"], reverse=True)

    def _is_held_back(self, run_id: str, config: str) -> bool:
        """Return whether somebody has refused this run, or these settings, or kept something of either back."""
        if _is_held(self._read(run_id)):
            return True
        for path in self._folder.glob("*.json"):
            with suppress(UserError):  # another run's note that is damaged is its own fault
                other = _noted(path)
                if other["config"] == identity(config) and _is_held(other):
                    return True
        return False

    def _has_asked(self, run_id: str, config: str) -> bool:
        known = self._read(run_id)
        return known is not None and known["config"] == identity(config)

    def _no_such_run(self, run_id: str) -> UserError:
        asked = ", ".join(run["run"] for run in self.all()) or "none"
        return UserError(
            "site.no_such_run",
            what=f"No run '{run_id}' has asked to take part here; asked have: {asked}.",
            why="What nobody has asked for cannot be decided.",
            fix="Name one of these; `site runs` shows them.",
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep others from writing: a run that asks anew at this moment would undo what somebody decides."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _read(self, run_id: str) -> dict | None:
        path = self._folder / f"{run_id}.json"
        if not os.path.lexists(path):
            return None
        return _noted(path)

    def _write(self, run_id: str, about: dict) -> None:
        temporary = self._folder / f"{run_id}.part"
        temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")
        temporary.replace(self._folder / f"{run_id}.json")


def identity(config: str) -> str:
    """Return the SHA-256 of a configuration's text."""
    return hashlib.sha256(config.encode()).hexdigest()


def _is_held(known: dict | None) -> bool:
    """Return whether somebody has refused a run, or kept something of it back, with whatever settings."""
    return known is not None and bool(known["state"] == "refused" or known.get("without") or known.get(HELD))


def _noted(path: Path) -> dict:
    """Return what is noted of a run; a refusal that cannot be read must not count as none."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        if not {"run", "config", "kinds", "settings", "asked_at", "state", "by", "reason"} <= set(noted):
            raise ValueError("something is missing in it")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            "site.decision_damaged",
            what=f"{path} cannot be read: {error}.",
            why="It says what was decided here about a run; it may be that somebody has refused it.",
            fix="Put the file back from a copy; or remove it, and decide again when the run asks again.",
        ) from error
    return noted


def _now() -> str:
    """Return the time so finely that it is clear which of two runs has asked last."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
