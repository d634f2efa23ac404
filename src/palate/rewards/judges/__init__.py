"""Models that judge by principles, and criticise and revise by them: one here, or one behind an endpoint.

A verdict on two answers, not yet a number for one. What is made of verdicts is in `stages/ai_feedback`; nothing here
knows a run or where candidates come from.
"""
