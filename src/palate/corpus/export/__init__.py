"""Records written in other people's formats. What is exported here reads back here, to the same texts and preferences.

    conversion             records in, text out, and a report
    table                  every format: what it keeps, and how it is read back
    pair_formats           a row for every pair, or for every thumb
    ranking_formats        all K responses of a ranking at once
    demonstration_formats  how to answer
    parts                  what they share
    lines                  rows as JSON lines, as one array, as a table
    pseudonyms             labelers' names replaced

A ranking of K responses becomes a row for each of its pairs where a format knows pairs only. What a format cannot say
(a tie, several turns in a table cell, a thumb among pairs) is counted, never bent.

Texts that go to `hh` lose blanks at their ends, as they do when such a file is read.
"""

from __future__ import annotations

from palate.corpus.export.conversion import ExportReport, export_data, export_lines, export_records
from palate.corpus.export.pseudonyms import Pseudonyms
from palate.corpus.export.table import EXPORTERS, Target

__all__ = [
    "EXPORTERS",
    "ExportReport",
    "Pseudonyms",
    "Target",
    "export_data",
    "export_lines",
    "export_records",
]
