"""The web app in which people give, check and use their preferences."""
