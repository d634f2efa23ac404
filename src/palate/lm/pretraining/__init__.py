"""What a model is made of before it has learned anything: a tokenizer, a shape and first weights, rows of documents.

How it learns from them is the stage's; a model that is there already comes from `lm/sources`.
"""
