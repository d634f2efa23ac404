"""Two models' scores beside each other: paired tests, corrected for their number, and the page that shows them.

Numbers in, a page out: what is asked is in `evals/protocols/`, who answers in `evals/asking/`.
"""
