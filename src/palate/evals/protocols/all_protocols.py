"""The table of them: what a section of a card may be called. A new one is a `Protocol` in a file here, and a name in
`recipe/evaluation.py`.
"""

from __future__ import annotations

from palate.evals.protocols.choices import CHOICES
from palate.evals.protocols.items import Protocol
from palate.evals.protocols.responses import RESPONSES
from palate.evals.protocols.texts import TEXTS
from palate.evals.protocols.truthful import TRUTHFUL
from palate.evals.protocols.unsure import UNSURE

PROTOCOLS: dict[str, Protocol] = {**CHOICES, **TEXTS, **TRUTHFUL, **RESPONSES, **UNSURE}
