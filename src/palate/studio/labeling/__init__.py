"""The pages of people who label and of those who look after them: tasks, guidelines, tests, review, exports.

The rules are in `feedback/`; here they become pages and an API.
"""
