"""Options that choose and edit a configuration, and how they become one."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import UserError

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.planning.sizes import Size
    from engine.runs.store import RunStore

PresetOption = Annotated[str | None, typer.Option("--preset", help="Name of a shipped configuration")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file with a configuration")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Dataset folder: data.source = folder, data.root")]
HeldOutOption = Annotated[str | None, typer.Option("--held-out", help="Site that no training sees (data.held_out)")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE, for instance federation.rounds=5; may be given repeatedly")
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend", help="Where the sites are: local (this process), ray (side by side), superlink (hospitals)"
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Sites that work at a time (with --backend ray)")
]
RayAddressOption = Annotated[
    str | None, typer.Option("--ray-address", help="HOST:PORT of a Ray cluster that this machine is a part of")
]
ServerOption = Annotated[
    Path | None, typer.Option("--server", help="The federation's folder at its server (with --backend superlink)")
]
FitOption = Annotated[
    bool | None,
    typer.Option(
        "--fit/--as-written", help="Fit side, length and prompt to the images; real_cpu is fitted unless told otherwise"
    ),
]
NameOption = Annotated[str | None, typer.Option("--name", help="A name for people")]


def read_config(
    *,
    preset: str | None,
    config: Path | None,
    data: Path | None = None,
    held_out: str | None = None,
    settings: Sequence[str] | None = None,
    name: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the configuration that the options describe; later options win over the file, ``--set`` over all."""
    from engine.config import load_config, preset_names

    if (preset is None) == (config is None):
        raise UserError(
            "cli.no_config",
            what="Give either --preset or --config.",
            why="A run needs one complete configuration.",
            fix=f"Presets: {', '.join(preset_names())}.",
        )
    overrides: dict[str, Any] = {}
    if data is not None:
        overrides |= {"data.source": "folder", "data.root": str(data)}
    if held_out is not None:
        overrides["data.held_out"] = held_out
    if name is not None:
        overrides["name"] = name
    overrides |= where or {}
    source: str | Path = preset if preset is not None else Path(str(config))
    if preset is not None and preset not in preset_names():
        raise UserError(
            "config.not_found",
            what=f"There is no preset '{preset}'.",
            why="A run needs a complete configuration.",
            fix=f"Presets: {', '.join(preset_names())}.",
        )
    return load_config(source, overrides=overrides | parse_settings(settings))


def fitted_config(
    chosen: RunConfig, *, fit: bool | None, preset: str | None, settings: Sequence[str] | None
) -> tuple[RunConfig, tuple[Size, ...]]:
    """Return the configuration with the sizes that its images ask for, and those; what ``--set`` gives stays."""
    from engine.planning.sizes import FITTED_PRESETS, fit_to_data

    if not (preset in FITTED_PRESETS if fit is None else fit):
        return chosen, ()
    return fit_to_data(chosen, given=parse_settings(settings))


def where_sites_are(
    *,
    backend: str | None,
    workers: int | None,
    ray_address: str | None = None,
    server: Path | None = None,
) -> dict[str, Any]:
    """Return the keys of a configuration that these options give; one that only one back end has chooses it."""
    given = {"workers": workers, "ray_address": ray_address, "server": None if server is None else str(server)}
    chosen = {key: value for key, value in given.items() if value is not None}
    backend = backend or ("superlink" if server is not None else "ray" if chosen else None)
    return chosen if backend is None else {"backend": backend, **chosen}


def edit_config(
    config: RunConfig, settings: Sequence[str] | None, *, where: Mapping[str, Any] | None = None
) -> RunConfig:
    """Return ``config`` with the keys ``where`` and the ``--set`` options applied."""
    from engine.config import parse_config

    values = config.model_dump(mode="json") | dict(where or {})
    for key, value in parse_settings(settings).items():
        section, _, leaf = key.rpartition(".")
        (values[section] if section else values)[leaf] = value
    return parse_config(values)


def parse_settings(settings: Sequence[str] | None) -> dict[str, Any]:
    """Return dotted keys and values of ``KEY=VALUE`` texts; values are TOML, bare words texts, ``none`` leaves out."""
    known = _known_keys()
    parsed: dict[str, Any] = {}
    for text in settings or ():
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or key not in known:
            close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            raise UserError(
                "config.unknown_key",
                what=f"'--set {text}' names no key of a configuration." if equals else f"'--set {text}' has no '='.",
                why="Settings are given as KEY=VALUE, with a dotted key of the schema.",
                fix=f"Did you mean {' or '.join(close)}?"
                if close
                else "`plan --preset NAME --json` shows a complete example.",
            )
        parsed[key] = _value(value.strip())
    return parsed


def open_store(home: Path | None) -> RunStore:
    """Return the runs store; the home also becomes the place where fetched weights are looked for.

    What the program writes from here on is for its owner alone.
    """
    from engine.runs.store import RunStore, home_folder

    os.umask(0o077)
    folder = home_folder(home)
    os.environ["DSFEDMED_HOME"] = str(folder)
    store = RunStore(folder)
    for warning in store.warnings:
        typer.echo(f"Note: {warning}", err=True)
    return store


def _known_keys() -> list[str]:
    from engine.config import RunConfig

    keys = []
    for name, field in RunConfig.model_fields.items():
        nested = getattr(field.annotation, "model_fields", None)
        keys += [name] if nested is None else [f"{name}.{leaf}" for leaf in nested]
    return keys


def _value(text: str) -> Any:
    if text.lower() in ("none", "null", ""):
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, or numbers of thousands of digits: the schema refuses the text
        return text
