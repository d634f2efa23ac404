"""One small function for each format: a row in, records out.

Nothing here opens a file or knows which format it is in; the pieces that formats share are in `rows/`.
"""
