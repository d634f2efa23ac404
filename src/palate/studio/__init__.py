"""The web app in which people give, check and use their preferences.

`app` and `serve` put the rooms together: `overview -> labeling -> training`, `chat` apart, all of them on `web`.
"""
