"""The command that starts a run with a given configuration. Torch-free."""

from __future__ import annotations

import json
import shlex
from functools import lru_cache
from typing import Any

from engine.config import RunConfig, load_config, preset_names
from engine.runs.identity import changed_keys

PROGRAM = ("python", "-m", "engine", "run")


def run_command(config: RunConfig) -> str:
    """Return the shell's line that starts a run with ``config``: the nearest preset, and what differs from it.

    Read back by the command line it is ``config`` again, key by key. Paths are those of the configuration.
    """
    changed = {name: changed_keys(preset, config) for name, preset in _presets().items()}
    nearest = min(changed, key=lambda name: (len(changed[name]), name))
    words = [*PROGRAM, "--preset", nearest]
    values = config.model_dump(mode="json")
    for key in changed[nearest]:
        section, _, leaf = key.rpartition(".")
        value = (values[section] if section else values)[leaf]
        words += ["--name", value] if key == "name" else ["--set", f"{key}={_literal(value)}"]
    return shlex.join(words)


def _literal(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


@lru_cache(maxsize=1)
def _presets() -> dict[str, RunConfig]:
    return {name: load_config(name) for name in preset_names()}
