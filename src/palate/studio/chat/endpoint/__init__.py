"""The models of the workspace for whatever speaks OpenAI's protocol: what may be asked, how replies and errors look.

Needs nothing but `chat` and `web`.
"""
