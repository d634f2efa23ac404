"""The chat and the OpenAI endpoint, and the process that holds the models and writes.

Needs nothing but `web`; what people say about answers is kept by `feedback/chat`.
"""
