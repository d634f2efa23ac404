"""The models of the workspace for whatever speaks OpenAI's protocol: what may be asked, how replies and errors look.

Needs nothing but `chat`, `web` and the names of the models; what is said here is stored nowhere.
"""
