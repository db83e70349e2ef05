"""Importing Gradio without the type stubs that it writes for editors, and without a server that no page has."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def unwritten() -> Iterator[None]:
    """Import Gradio within the block, for the first time in the process.

    For each of its components it reads the source, makes a stub, compares it with the one beside the source and writes
    it where it differs: half of the time of its import, and nothing to a page that serves. A class whose file is not
    known has no stub. What it loads for an MCP server takes another fifth, wherever ``mcp`` is installed; ours is a
    program of its own.
    """
    modules: dict[str, Any] = sys.modules
    is_loaded = "mcp" in modules
    modules.setdefault("mcp", None)  # to import it is an ImportError, which Gradio expects
    getfile = inspect.getfile

    def unknown(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError("a page needs no stub")
        return getfile(thing)

    inspect.getfile = unknown
    try:
        yield
    finally:
        inspect.getfile = getfile
        if not is_loaded:
            del modules["mcp"]
