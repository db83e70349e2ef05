"""The command that lists every system: its paper, what it trains, what crosses a site's border, where it runs."""

from __future__ import annotations

from typing import Any

from engine.cli.output import JsonFlag, print_json
from engine.config import parse_config
from engine.methods import catalogue
from engine.methods.catalogue import METRICS, MethodSpec


def methods(as_json: JsonFlag = False) -> None:
    """List every compared system: its paper, what is trained, what crosses a site's border, where it can run."""
    described = [describe(method) for method in catalogue.methods().values()]
    if as_json:
        print_json({"methods": described})
        return
    for one in described:
        print(f"{one['name']}: {one['title']} ({one['paper']})")
        for key, words in (("", one["sentence"]), ("Trains: ", one["trains"]), ("Crosses: ", one["crosses"])):
            if words:
                print(f"  {key}{words}")
        print(f"  Kinds of messages: {', '.join(one['kinds'])}. Runs: {', '.join(one['modes'])}.\n")


def describe(method: MethodSpec) -> dict[str, Any]:
    """Return what the catalogue says of a system: ``kinds`` of its messages, ``modes`` in which it runs (back ends)."""
    config = parse_config({"method": method.name})
    values = config.model_dump()
    sent = [kind.name for stage in method.stages for kind in stage.sends if kind.is_sent(values)]
    return {
        "name": method.name,
        "title": method.title,
        "paper": method.paper,
        "sentence": method.sentence,
        "trains": method.trains,
        "crosses": method.crosses,
        "kinds": [*sent, METRICS.name],
        "modes": list(method.places),
        "stages": list(method.stage_names),
        "models": {model.name: catalogue.model_title(model.name, config) for model in method.models},
        "fixes": dict(method.fixed),
    }
