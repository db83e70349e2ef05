"""Who takes part in a run across hospitals, and as what: fixed when it is launched, whoever comes or goes later."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from engine.config import RunConfig
from engine.config_fields import is_of_system
from engine.data.phantoms import TASKS
from engine.errors import UserError


def participants(config: RunConfig, accepted: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Return the sites of a run, sorted, and the one that is held out; "" where the test set is the server's own.

    ``accepted`` are the sites that may take part by their keys. Raises ``UserError`` ``federation.site_not_accepted``,
    and ``federation.no_phantoms`` for a run of phantoms that these sites are none of.
    """
    known = sorted(accepted)
    chosen = sorted(config.data.sites or known)
    _check_phantoms(config, chosen, known=known)
    held_out = ""
    if config.data.protocol == "leave-one-site-out":
        held_out = config.data.held_out or (chosen[-1] if chosen else "")
    names = sorted({*chosen, held_out} - {""})
    unknown = [name for name in names if name not in known]
    if unknown:
        raise _not_accepted(config, unknown, known=known)
    if len(names) < (2 if held_out or not names else 1):
        raise UserError(
            "federation.site_not_accepted",
            what=f"The run would have {len(names)} site(s), of {len(known)} that the federation has accepted.",
            why="A run needs a site that trains and one that is held out (or a fixed test set), all accepted by key.",
            fix=f"Accepted: {', '.join(known) or 'none'}; add others with `federation add-site`.",
        )
    return tuple(names), held_out


def with_named(config: RunConfig, sites: Sequence[str], *, held_out: str | None = None) -> RunConfig:
    """Return ``config`` with its sites named, and the one that is held out where it is given."""
    changed: dict[str, Any] = {"sites": tuple(sites)}
    if held_out is not None:
        changed["held_out"] = held_out
    return config.model_copy(update={"data": config.data.model_copy(update=changed)})


def for_sites(config: RunConfig, *, names: Sequence[str], held_out: str) -> str:
    """Return the configuration as sites get it: who takes part is said, and no folder of the server."""
    values = config.model_dump(mode="json")
    # A test set of the server's own is nothing to the sites: for them nobody is held out.
    values["data"] |= {"sites": list(names), "held_out": held_out or None, "root": None, "test_root": None}
    values["data"]["protocol"] = "leave-one-site-out"
    # There a run is one in a process of its own; what depends on where it is, is said before.
    if config.privacy.is_on and config.privacy.system_noise(config.backend):
        values["privacy"]["noise_source"] = "system"
    if config.generator.is_private and is_of_system(config.generator.dp_noise_source, config.backend):
        values["generator"]["dp_noise_source"] = "system"
    return json.dumps(values | {"backend": "local", "server": None, "name": "run"}, sort_keys=True)


def _check_phantoms(config: RunConfig, chosen: Sequence[str], *, known: Sequence[str]) -> None:
    """Refuse phantoms at hospitals before anybody is asked: a site could only say that its images are wrong."""
    task = TASKS.get(config.data.task)
    strangers = [] if task is None else [name for name in chosen if name not in task.sites]
    if config.data.source == "folder" or task is None or not strangers:
        return
    held_out = ""
    if config.data.protocol == "leave-one-site-out" and config.data.held_out not in known:
        held_out = f", and choose who is held out with --held-out SITE (data.held_out): {', '.join(known) or 'none'}"
    raise UserError(
        "federation.no_phantoms",
        what=f"The configuration asks for phantoms of the task '{task.name}' (data.source = \"phantom\"), and "
        f"{', '.join(strangers)} {'is' if len(strangers) == 1 else 'are'} none of its sites.",
        why="Hospitals have images in folders; a site of phantoms draws its own, by its name.",
        fix=f"Give --set data.source=folder (the setting data.source){held_out}.",
    )


def _not_accepted(config: RunConfig, unknown: Sequence[str], *, known: Sequence[str]) -> UserError:
    server = shlex.quote(str(config.server or "FEDERATION"))
    which = unknown[0] if len(unknown) == 1 else "SITE"
    return UserError(
        "federation.site_not_accepted",
        what=f"The run names {', '.join(unknown)}, which the federation does not accept, or not any more.",
        why="A run keeps the sites that it was launched with, and all of them have to be accepted by their key.",
        fix=f"Accept it with `python -m engine federation add-site {server} {which} --request site.csr` (a revoked "
        "site first makes new keys, `site keys --new`), then start or resume the run; or start a run of other sites "
        f"(data.sites, --held-out). Accepted: {', '.join(known) or 'none'}.",
    )
