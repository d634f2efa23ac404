"""What rows are kept in: JSON in its several shapes, tables, Parquet."""
