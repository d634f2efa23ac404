"""Models that judge by principles, and criticise and revise by them: one here, or one behind an endpoint.

A verdict on two answers, or a number for one. What is made of verdicts is in `stages/ai_feedback`, of numbers in
`studio/chat`; nothing here knows a run or where candidates come from.
"""
