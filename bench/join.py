"""What a site brings and takes that joins a finished run, against training all sites anew (Figure 6 of DSFedMed).

    python -m bench.join [--preset phantom_cpu_smoke] [--new SITE] [--home FOLDER] [--set KEY=VALUE]

Four runs one after the other: the preset without the new site (its last source unless ``--new`` names another), the
join, and training all sites anew by DSFedMed and by FedSAM, with the same settings. Runs that the home has already are
not run again. Dice is the student's, on images that trained nothing; times are those of the stages.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from engine.cli.join_tables import print_join
from engine.cli.options import edit_config
from engine.config import RunConfig, load_config, parse_config
from engine.federation.connect import describe
from engine.planning.joining import plan_join
from engine.runs import joins, lifecycle
from engine.runs.join_results import retrained_configs
from engine.runs.store import RunStore

POLL_S = 0.2


def finish(store: RunStore, run_id: str) -> str:
    """Wait for the run's end and return its id; what stopped it ends the bench."""
    while store.get(run_id).active:
        lifecycle.advance_queue(store)
        time.sleep(POLL_S)
    record = store.get(run_id)
    if record.status != "finished":
        raise SystemExit(f"the run {run_id} is {record.status}: {record.error}")
    print(f"  {record.name}: {run_id}", file=sys.stderr, flush=True)
    return run_id


def finished(store: RunStore, config: RunConfig) -> str:
    """Return the id of a finished run of this configuration: one that the home has, or a new one."""
    wanted = lifecycle.with_absolute_paths(config)
    for record in store.list(limit=1000):
        if (record.config_hash, record.status) == (wanted.content_hash(), "finished"):
            return record.run_id
    return finish(store, lifecycle.submit(store, config))


def joined(store: RunStore, parent: str, new: str) -> str:
    """Let ``new`` join the finished run ``parent``; return the id of the run that did."""
    config = joins.joined_config(store, parent, [new])
    for record in store.list(limit=1000):
        if (record.config_hash, record.parent, record.status) == (config.content_hash(), parent, "finished"):
            return record.run_id
    retrained = retrained_configs(config, method=joins.earlier_of(store, parent).method)
    planned, retraining = plan_join(config, retrained=retrained, home=store.home)
    child = joins.join(
        store,
        parent,
        config=config,
        classes=planned.classes,
        modality=planned.modality,
        planned_s=planned.stage_seconds,
        retraining=retraining,
    )
    return finish(store, child)


def without(config: RunConfig, new: str | None) -> tuple[RunConfig, str]:
    """Return the configuration without the new site, and that site's name; the unseen site stays the same."""
    described = describe(config)
    chosen = new or described.source_names[-1]
    values = config.model_dump(mode="json")
    values["data"] |= {
        "sites": [site for site in described.source_names if site != chosen],
        "held_out": described.test_name,
    }
    return parse_config(values | {"name": f"{config.name} without {chosen}"}), chosen


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="phantom_cpu_smoke")
    parser.add_argument("--new", metavar="SITE")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--set", action="append", metavar="KEY=VALUE")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(chosen.home or Path(folder))
        few, new = without(edit_config(load_config(chosen.preset), chosen.set), chosen.new)
        parent = finished(store, few)
        child = joined(store, parent, new)
        anew = retrained_configs(store.get(child).config, method=few.method)
        for method, config in anew.items():
            finished(store, config.model_copy(update={"name": f"all sites by {method}"}))
        print_join(store, child)
        store.close()


if __name__ == "__main__":
    main()
