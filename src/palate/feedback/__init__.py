"""People and what they say: tastes, labelers, agreement."""
