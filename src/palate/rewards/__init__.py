"""Where a number for a response comes from: a learned model, a rule, a length, or a weighted sum of them."""
