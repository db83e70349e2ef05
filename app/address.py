"""What the page's address says of what it shows, so that a reload or a shared link shows the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

TABS = ("train", "samples", "segment", "tables", "compare")
MAX_LETTERS = 200
MAX_RUNS = 6
"""That a comparison shows side by side."""
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
    """Return JavaScript that writes the name of a tab into the address, once the page has read there what to show.

    Tabs say that the first of them is chosen as soon as they are drawn, before :data:`CHOOSE_TAB`.
    """
    assert tab in TABS
    return f"""() => {{
  if (!window.tabOfAddressRead) return;
  const address = new URL(window.location);
  address.searchParams.set('tab', '{tab}');
{_REPLACE}}}"""


CHOOSE_TAB = f"""() => {{
  window.tabOfAddressRead = true;
  const address = new URL(window.location), names = {json.dumps(TABS)};
  const buttons = [...document.querySelectorAll('#tabs [role=tab][data-tab-id]')];
  const shown = buttons.find((button) => button.getAttribute('aria-selected') === 'true')?.dataset.tabId;
  const asked = address.searchParams.get('tab');
  // Somebody quick has chosen already: that stands, whatever the address says.
  if (shown && shown !== names[0]) {{
    address.searchParams.set('tab', shown);
{_REPLACE}    return {{__type__: 'update'}};
  }}
  return names.includes(asked) ? {{__type__: 'update', selected: asked}} : {{__type__: 'update'}};
}}"""
"""Chooses the tab that the address asks for in the browser, where no answer of a slow server can undo a click."""


SET_RUNS = f"""(runs) => {{
  const address = new URL(window.location);
  if (runs?.length) address.searchParams.set('runs', runs.join(',')); else address.searchParams.delete('runs');
  // A comma may stand in a query as it is, and a link is for people.
  address.search = address.search.replaceAll('%2C', ',');
{_REPLACE}}}"""
"""Writes the runs of a comparison into the address, in the order of choosing."""


@dataclass(frozen=True)
class Wanted:
    """What an address asks for; None for what it does not say, or says in a way that cannot be."""

    run: str | None = None
    model: str | None = None
    sample: str | None = None
    epoch: int | None = None
    """As people count, from 1."""
    runs: tuple[str, ...] = ()
    """Side by side, each once."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wanted:
        """Return what the parameters of an address ask for."""

        def text(name: str) -> str | None:
            value = query.get(name, "")
            return value if 0 < len(value) <= MAX_LETTERS else None

        epoch = text("epoch")
        runs = dict.fromkeys(name for name in (text("runs") or "").split(",") if name)
        number = int(epoch) if epoch and epoch.isascii() and epoch.isdecimal() and len(epoch) < 8 else 0
        return cls(
            run=text("run"),
            model=text("model"),
            sample=text("sample"),
            epoch=number if 0 < number <= MAX_EPOCH else None,
            runs=tuple(runs)[:MAX_RUNS],
        )
