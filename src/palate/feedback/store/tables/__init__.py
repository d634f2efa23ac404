"""The tables of a workspace.

    accounts         User Login Invitation Token Attempt
    material         Guideline PromptRow ResponseRow Model
    work             Batch Item ItemAuthor Task
    judgement_log    Judgement (append-only), Review
    machines         Job Round
    talk             Conversation ChatMessage
    audit            Event Setting

Times are seconds since 1970 (UTC). Ids that reach a browser are random, so that none can be guessed or counted.
A judgement holds the whole record it speaks of (prompt, responses, provenance), so the log alone is the data; the
database refuses to change or delete one. What the tables allow is enforced here (unique keys, foreign keys, checks);
what people may do with them is the business of `queue`, `people` and `judgements`.
"""

from palate.feedback.store.tables.accounts import ROLES, Attempt, Invitation, Login, Token, User
from palate.feedback.store.tables.audit import Event, Setting
from palate.feedback.store.tables.base import PlainText, Table, fold_name, new_id, without_nul
from palate.feedback.store.tables.judgement_log import JUDGEMENT_KINDS, Judgement, Review
from palate.feedback.store.tables.machines import JOB_STATES, Job, Round
from palate.feedback.store.tables.material import Guideline, Model, PromptRow, ResponseRow
from palate.feedback.store.tables.talk import ChatMessage, Conversation
from palate.feedback.store.tables.work import BATCH_KINDS, BATCH_STATES, TASK_STATES, Batch, Item, ItemAuthor, Task

__all__ = [
    "BATCH_KINDS",
    "BATCH_STATES",
    "JOB_STATES",
    "JUDGEMENT_KINDS",
    "ROLES",
    "TASK_STATES",
    "Attempt",
    "Batch",
    "ChatMessage",
    "Conversation",
    "Event",
    "Guideline",
    "Invitation",
    "Item",
    "ItemAuthor",
    "Job",
    "Judgement",
    "Login",
    "Model",
    "PlainText",
    "PromptRow",
    "ResponseRow",
    "Review",
    "Round",
    "Setting",
    "Table",
    "Task",
    "Token",
    "User",
    "fold_name",
    "new_id",
    "without_nul",
]
