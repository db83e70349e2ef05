"""The texts of a table, for made-up figures."""

from __future__ import annotations

from dataclasses import replace

from engine.experiments.formats import entries_csv, escaped, leaders, make_grids, to_latex, to_markdown
from engine.experiments.results import Entry
from engine.experiments.spreadsheet import rows_csv

OURS = Entry(
    system="ours",
    title="Ours",
    column="OD",
    measure="dice",
    status="finished",
    num_seeds=3,
    mean=0.81234,
    sd=0.0123,
    low=0.79,
    high=0.83,
    worst_site="b",
    worst=0.75,
    difference=None,
    difference_low=None,
    difference_high=None,
    p_value=None,
    num_groups=None,
    published=0.949,
    published_column="Disc",
    source="paper",
)
BETTER = replace(
    OURS,
    system="better",
    title="Better & 50 %",
    mean=0.9,
    sd=None,
    low=None,
    high=None,
    status="1 of 3, else failed",
    difference=0.0877,
    difference_low=0.05,
    difference_high=0.125,
    p_value=0.0312,
    num_groups=20,
    published=None,
    source="",
)
ABSENT = replace(
    OURS, system="absent", title="Absent", status="not in this version", num_seeds=0, mean=None, sd=None, low=None,
    high=None, worst_site="", worst=None, published=0.9,
)  # fmt: skip
ENTRIES = (OURS, BETTER, ABSENT)

MARKDOWN = """# A table

## Dice

| System        | OD                           | Disc, published |
| ------------- | ---------------------------- | --------------- |
| Ours          | 0.812 ± 0.012 [0.790, 0.830] | 0.949           |
| Better & 50 % | 0.900 (1 of 3, else failed)  | -               |
| Absent        | not in this version          | 0.900           |

## Dice: difference to Ours

| System        | OD                                 |
| ------------- | ---------------------------------- |
| Better & 50 % | +0.088 [+0.050, +0.125], p = 0.031 |

## Dice: worst site held out

| System        | OD        |
| ------------- | --------- |
| Ours          | 0.750 (b) |
| Better & 50 % | 0.750 (b) |

- A note.
"""
LATEX = r"""% A note.
\begin{table}
\caption{A table. Dice}
\begin{tabular}{lrr}
\toprule
System & OD & Disc, published \\
\midrule
Ours & 0.812 $\pm$ 0.012 [0.790, 0.830] & 0.949 \\
Better \& 50 \% & 0.900 (1 of 3, else failed) & - \\
Absent & not in this version & 0.900 \\
\bottomrule
\end{tabular}
\end{table}
"""
CSV = """system,title,column,measure,status,num_seeds,mean,sd,low,high,worst_site,worst,difference,difference_low,\
difference_high,p_value,num_groups,published,published_column,source
ours,Ours,OD,dice,finished,3,0.81234,0.0123,0.79,0.83,b,0.75,,,,,,0.949,Disc,paper
better,Better & 50 %,OD,dice,"1 of 3, else failed",3,0.9,,,,b,0.75,0.0877,0.05,0.125,0.0312,20,,Disc,
absent,Absent,OD,dice,not in this version,0,,,,,,,,,,,,0.9,Disc,paper
"""


def test_markdown() -> None:
    assert to_markdown("A table", make_grids(ENTRIES, reference="ours"), ["A note."]) == MARKDOWN


def test_latex() -> None:
    assert to_latex("A table", make_grids(ENTRIES, reference="ours")[:1], ["A note."]) == LATEX
    assert escaped("a_b^{c}\\ 5% λ") == r"a\_b\textasciicircum{}\{c\}\textbackslash{} 5\% $\lambda$"


def test_csv() -> None:
    assert entries_csv(ENTRIES) == CSV


def test_the_table_says_where_the_reference_does_not_lead() -> None:
    (said,) = leaders(ENTRIES, reference="ours")
    assert said == (
        "Dice, OD: Better & 50 % leads, not Ours: 0.900 against 0.812 (difference +0.088 [+0.050, +0.125], p = 0.031)."
    )
    assert leaders((OURS, replace(BETTER, mean=0.7)), reference="ours") == []
    slower = replace(BETTER, measure="sync_min", mean=3.0)
    assert leaders((replace(OURS, measure="sync_min", mean=2.0), slower), reference="ours") == [], "less is better"
    assert leaders(ENTRIES, reference=None) == []


def test_no_cell_of_a_file_is_a_formula() -> None:
    """Names of sites are other people's words; numbers below zero stay numbers, and nothing is marked twice."""
    rows = [
        {"site": "=HYPERLINK(1)", "difference": -0.5, "note": None},
        {"site": "'=kept", "difference": 1, "note": "@x"},
    ]
    text = rows_csv(rows, columns=("site", "difference", "note"))
    assert text.splitlines() == ["site,difference,note", "'=HYPERLINK(1),-0.5,", "'=kept,1,'@x"]
