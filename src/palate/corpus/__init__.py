"""Where text comes from: files in other people's formats, read into records, checked, split and exported.

containers      rows out of JSON in its shapes, CSV, TSV, Parquet, plain text, each optionally gzipped; streamed
rows            a row and what is in it: fields, values, turns, marks, verdicts; why a row gives no record
formats         one small function per format: a row in, records out
catalogue       the table of them
recognition     which of them a file is in, and why
accounting      what becomes of every column and record; what must not be left out without a word
parsing         one row through the parsers of its format
explaining      what the user says of a file: its words of judgement, another file that belongs to it
reading         the records of a file, or of a recipe's data section
first_records   the first records of a file, before anybody has decided how to read it
check           import and check, with a report and a bar
splits          whole conversations held out, by hash or by tag
pairs           comparisons grouped by prompt, and batches of them
export          records in other people's formats
public          data sets that others made public, fetched when asked for
mined           preferences out of votes, thumbs, trees, refusals and what a model knows
quality         poor text and duplicates left out of what is pretrained on
"""

from __future__ import annotations

from palate.corpus.reading import (
    Read,
    iterate,
    read_candidates,
    read_demonstrations,
    read_prompts,
    read_rankings,
    read_texts,
)

__all__ = [
    "Read",
    "iterate",
    "read_candidates",
    "read_demonstrations",
    "read_prompts",
    "read_rankings",
    "read_texts",
]
