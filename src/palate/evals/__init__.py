"""Did it help: win rates, calibration, fluency, and the report that shows them.

Measures of one result. Several runs compared are in `experiments/`; agreement between people is in
`feedback/statistics/`.
"""
