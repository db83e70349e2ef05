"""The page itself: Gradio's, but that a fault of an event quotes nothing that a visitor sent into the server's log."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import gradio as gr

from app import text

LOG = logging.getLogger(__name__)


class Page(gr.Blocks):
    """A page whose events end with a sentence where a control refuses its value, or something unforeseen happens."""

    async def preprocess_data(self, *given: Any, **named: Any) -> Any:
        """Return what the controls make of what was sent; raises ``gr.Error`` where one cannot have it.

        A slider that is sent nothing compares that with its bounds: no fault of the page's.
        """
        try:
            return await super().preprocess_data(*given, **named)
        except Exception:
            raise gr.Error(text.NOT_OFFERED, title="app.not_offered", print_exception=False) from None

    async def process_api(self, *given: Any, **named: Any) -> dict[str, Any]:
        """Return what an event gives; raises ``gr.Error`` with words of ours.

        A list of Gradio's that is sent what it does not offer says so with the value as it came, line breaks included,
        and all that it offers; Gradio writes that with a trace into the log.
        """
        try:
            return await super().process_api(*given, **named)
        except gr.Error as error:
            if not error.print_exception:  # ours already
                raise
            raise gr.Error(text.NOT_OFFERED, title="app.not_offered", print_exception=False) from None
        except Exception as error:
            # Without the error's own words: they may have the name of a file, and that a patient's.
            where = "".join(traceback.format_tb(error.__traceback__))
            LOG.error("unforeseen %s in an event\n%s", type(error).__name__, where)
            sentence = f"{text.UNEXPECTED_WHAT.format(kind=type(error).__name__)} {text.UNEXPECTED_WHY}"
            raise gr.Error(f"{sentence} {text.UNEXPECTED_FIX}", title="app.unforeseen", print_exception=False) from None
