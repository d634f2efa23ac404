"""Did it help: win rates, calibration, fluency, and the report that shows them."""
