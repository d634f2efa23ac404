"""Every format we read: how each looks, which values tell it from others, and what makes its records.

What is made of a row is in `formats/`; which format a file is in is decided by `recognition`.
"""
