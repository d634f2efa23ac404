"""What rows are kept in: JSON in its several shapes, tables, Parquet, plain text, gzipped or not.

Rows are given one at a time and never held all at once; what they mean is not known here.
"""
