"""A dropdown whose options come and go while the page is open."""

from __future__ import annotations

from typing import Any

import gradio as gr


class Picker(gr.Dropdown):
    """A dropdown for which a value that is not, or not yet, among its options counts as no choice.

    The options of runs and models change under the eyes of the reader. A browser that draws slowly sends what stood
    there before they came; gradio answers that with an error, in the middle of the page.
    """

    is_template = True  # drawn as a Dropdown

    def preprocess(self, payload: Any) -> Any:
        """Return the chosen value, or None."""
        known = [value for _, value in self.choices]
        return super().preprocess(payload if payload in known else None)


class SeveralPicker(gr.Dropdown):
    """A :class:`Picker` that takes several: those that are not, or not yet, among its options are passed over."""

    is_template = True  # drawn as a Dropdown

    def preprocess(self, payload: Any) -> Any:
        """Return the chosen values that are offered, in the order of choosing."""
        known = [value for _, value in self.choices]
        return [value for value in payload or () if value in known]
