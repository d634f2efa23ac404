"""Where text comes from: files in other people's formats, read into records, checked, split and exported.

    files       rows out of JSON lines, JSON arrays, CSV, TSV, Parquet, plain text, each optionally gzipped; streamed
    formats     the table of all formats
    recognition which of them a file is in
    values, columns, demonstrations, rankings, labeling_tools, trees
                one small function per format: a row in, records out
    rejections  malformed and unusable rows, counted
    reading     the records of a file, or of a recipe's data section
    splits      whole conversations held out, by hash or by tag
    pairs       comparisons grouped by prompt, and batches of them
    check       import and check, with a report
    export      records in other people's formats
    public      data sets that others made public, fetched when asked for

Left out: cleaning for quality, which is a matter of its own.
"""

from __future__ import annotations

from palate.corpus.reading import Read, iterate, read_demonstrations, read_prompts, read_rankings, read_texts

__all__ = ["Read", "iterate", "read_demonstrations", "read_prompts", "read_rankings", "read_texts"]
