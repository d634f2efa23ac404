"""Out of the log into files: data sets that training reads, and the formats of other tools.

The formats themselves are in `corpus/export/`.
"""
