"""Every format we read, and one small function for each that makes records of a row."""
