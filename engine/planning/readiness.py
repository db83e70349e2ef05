"""What a configuration needs and this machine lacks, before anybody asks for a plan. Torch-free."""

from __future__ import annotations

import tomllib

from engine.config import PRESETS_DIR, RunConfig, load_config
from engine.errors import UserError
from engine.methods import catalogue
from engine.planning.checks import check_generator, weight_faults
from engine.planning.machine import choose_device


def lacking(config: RunConfig) -> tuple[str, ...]:
    """Return a sentence for each of device, weights and optimiser that cannot be had here, with what mends it."""
    stages = catalogue.method(config.method).stage_names
    found = []
    try:
        device, _ = choose_device(config.device)
    except UserError as error:
        device = "cuda"
        found.append(_said(error))
    found += [_said(fault) for fault in weight_faults(config, stages)]
    try:
        check_generator(config, stages, device=device)
    except UserError as error:
        found.append(_said(error))
    return tuple(found)


def preset_lacks(name: str) -> tuple[str, ...]:
    """Return what :func:`lacking` does of a shipped preset; its folders are the reader's own matter."""
    raw = tomllib.loads((PRESETS_DIR / f"{name}.toml").read_text(encoding="utf-8"))
    own = {f"data.{key}": "." for key in ("root", "test_root") if raw.get("data", {}).get("source") == "folder"}
    return lacking(load_config(name, overrides=own))


def _said(error: UserError) -> str:
    return f"{error.what} {error.fix}"
