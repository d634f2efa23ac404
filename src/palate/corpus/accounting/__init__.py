"""What becomes of every column and every record: used, kept, ignored on request, repeated, or named as not used.

Nothing is read here; that is the business of `formats/`.
"""
