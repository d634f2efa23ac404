"""What becomes of every column of a file."""
