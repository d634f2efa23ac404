"""Conversations of people with models, and what people say about the answers.

Text is written by the workers of the web app, not here.
"""
