"""What every test runs under: no network, no telemetry, no home folder of a person, repeatable property tests."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# Set before anything of the project is imported, and inherited by the processes that tests start.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    GRADIO_ANALYTICS_ENABLED="False",
    FLWR_TELEMETRY_ENABLED="0",
    PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums in another order have other bits, and test processes share cores
SCRATCH = tempfile.TemporaryDirectory(prefix="dsfedmed-tests-")
os.environ["DSFEDMED_HOME"] = SCRATCH.name  # also in each of several test processes, which must not share one
os.environ["GRADIO_TEMP_DIR"] = SCRATCH.name

# What test modules import stays to the end. Looking through all of it for garbage, again and again, took half of the
# time of collecting the tests: 20 of 40 s.
USUAL_THRESHOLDS = gc.get_threshold()
gc.set_threshold(100_000, 20, 50)


def pytest_collection_finish() -> None:
    """Leave out of every later search for garbage what will be there to the end."""
    gc.freeze()
    gc.set_threshold(*USUAL_THRESHOLDS)


# Examples follow from the test itself: a failure on one machine is a failure on all; no deadline on a busy machine.
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")


def real_data_root() -> Path | None:
    """Return the folder of the real multi-site data sets, or None where it is not."""
    root = Path(os.environ.get("DSFEDMED_DATA", ROOT.parent / "shared" / "data"))
    return root if root.is_dir() else None


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Give the folder of the real data sets; the test is skipped without it."""
    root = real_data_root()
    if root is None:
        pytest.skip("the real multi-site images are not here (DSFEDMED_DATA)")
    return root
