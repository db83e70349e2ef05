"""``doctor``: what this machine and this installation can do."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from engine.cli.options import open_store
from engine.cli.output import HomeOption, JsonFlag, print_json, print_table

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LOW_MEMORY_GIB, LOW_DISK_GIB = 4.0, 2.0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; ``good`` is False where something will not work."""

    name: str
    value: Any
    good: bool = True
    advice: str = ""


def doctor(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Report versions, cores, memory, disk, GPU, ONNX providers, browser and weights, and what to do about faults."""
    store = open_store(home)
    found = [*_versions(), *_machine(store.home), *_torch(), *_providers(), _browser(), *_weights()]
    if as_json:
        rows = [{"name": f.name, "value": f.value, "good": f.good, "advice": f.advice} for f in found]
        print_json({"healthy": all(f.good for f in found), "findings": rows})
        return
    print_table(("", "What", "Found", ""), [("ok" if f.good else "!!", f.name, f.value, f.advice) for f in found])


def _versions() -> list[Finding]:
    from engine.runs.report import PACKAGES, versions

    found = versions()
    python = found.pop("python")
    rows = [
        Finding("python", python, python.startswith("3.11."), "" if python.startswith("3.11.") else "Use Python 3.11.")
    ]
    rows += [Finding(name, version) for name, version in found.items()]
    needed = [name for name in PACKAGES if name not in found and not name.startswith("onnxruntime")]
    return rows + [Finding(name, "missing", False, "Run: make setup") for name in needed]


def _machine(home: Any) -> list[Finding]:
    from engine.planning.machine import free_disk_gib, memory_gib
    from engine.runs.report import machine

    facts = machine()
    memory, disk = memory_gib(), free_disk_gib(home)
    return [
        Finding("processor", facts["processor"]),
        Finding("cores", facts["cores"]),
        Finding(
            "memory",
            f"{memory:.1f} GiB",
            memory > LOW_MEMORY_GIB,
            "" if memory > LOW_MEMORY_GIB else "Runs need 4 GiB.",
        ),
        Finding("disk", f"{disk:.1f} GiB free", disk > LOW_DISK_GIB, "" if disk > LOW_DISK_GIB else "Free some space."),
        Finding("home", str(home)),
    ]


def _torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding("torch", str(error), False, "Run: make setup")]
    if not torch.cuda.is_available():
        return [Finding("cuda", "no GPU: runs use the CPU")]
    properties = torch.cuda.get_device_properties(0)
    return [Finding("cuda", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")]


def _providers() -> list[Finding]:
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        return [Finding("onnx providers", str(error), False, "Run: make setup")]
    return [Finding("onnx providers", ", ".join(onnxruntime.get_available_providers()))]


def _browser() -> Finding:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    return Finding("chromium", path or "not found", True, "" if path else "Needed by the browser tests only.")


def _weights() -> list[Finding]:
    from engine.models.assets import asset_paths, list_assets

    shipped = [asset for asset in list_assets() if asset.made_by]
    rows = []
    for asset in shipped:
        here = any(path.exists() for path in asset_paths(asset))
        rows.append(
            Finding(f"weights {asset.name}", "here" if here else "missing", here, "" if here else asset.made_by or "")
        )
    return rows
