"""What the page says of the papers' tables."""

from __future__ import annotations

TAB_TABLES = "Tables"
TABLES_LEAD = (
    "The papers' tables and figures, filled with the runs of this home and, where there is none, with figures that "
    "were recorded before and came with the program. A file of the program says which systems, images and seeds each "
    "of them has. Nothing is started here; the command below runs what is missing."
)
TABLE_LABEL, TABLE_INFO = "Table", "What is compared"
SCALE_LABEL, SCALE_INFO = "Scale", "Sizes of models and images"
SCALES = {"mini": "mini (a CPU)", "paper": "the paper's (a GPU)"}
READ_AGAIN = "Read the runs again"
DOWNLOADS = {".csv": "CSV", ".md": "Markdown", ".tex": "LaTeX"}
CELLS_HEADING = "Runs of this table"
CELL_COLUMNS = ("System", "Images", "Finished", "Under way", "Failed", "Not run")
CELLS_DONE = "{finished} of {total} runs are finished."
CELLS_RECORDED = "Of {count} of them the figures were recorded before; the notes say by which version."
NOT_IN_VERSION = "not in this version"
FAILURES_HEADING = "What failed, and what to do"
NOTES_HEADING = "Notes"
COMMAND = "To run what is missing, or to go on where it was stopped, in a terminal"
PUBLISHED_UNKNOWN = "Published figures: unknown."
NOT_MEASURED_HERE = "Inference is not measured by the page: the command does, and writes it into its files."
