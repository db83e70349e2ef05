"""What the page's address says of what it shows, so that a reload or a shared link shows the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TABS = ("train", "samples", "segment", "tables")
MAX_LETTERS = 200
MAX_EPOCH = 10**6

_REPLACE = """
  window.history.replaceState(null, '', address);
"""
SET_RUN = f"""(run) => {{
  const address = new URL(window.location);
  const before = address.searchParams.get('run');
  if (run) address.searchParams.set('run', run); else address.searchParams.delete('run');
  // What was looked at belongs to the run of before.
  if (before && before !== run) for (const part of ['sample', 'epoch']) address.searchParams.delete(part);
{_REPLACE}}}"""


def setter(part: str) -> str:
    """Return JavaScript that writes a control's value into the address as ``part``; an empty one takes it out."""
    return f"""(value) => {{
  const address = new URL(window.location);
  if (value) address.searchParams.set('{part}', value); else address.searchParams.delete('{part}');
{_REPLACE}}}"""


def set_tab(tab: str) -> str:
    """Return JavaScript that writes the name of a tab into the address."""
    assert tab in TABS
    return f"""() => {{
  const address = new URL(window.location);
  address.searchParams.set('tab', '{tab}');
{_REPLACE}}}"""


@dataclass(frozen=True)
class Wanted:
    """What an address asks for; None for what it does not say, or says in a way that cannot be."""

    tab: str | None = None
    run: str | None = None
    model: str | None = None
    sample: str | None = None
    epoch: int | None = None
    """As people count, from 1."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wanted:
        """Return what the parameters of an address ask for."""

        def text(name: str) -> str | None:
            value = query.get(name, "")
            return value if 0 < len(value) <= MAX_LETTERS else None

        tab, epoch = text("tab"), text("epoch")
        number = int(epoch) if epoch and epoch.isascii() and epoch.isdecimal() and len(epoch) < 8 else 0
        return cls(
            tab=tab if tab in TABS else None,
            run=text("run"),
            model=text("model"),
            sample=text("sample"),
            epoch=number if 0 < number <= MAX_EPOCH else None,
        )
