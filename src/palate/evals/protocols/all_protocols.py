"""The table of them: what a section of a card may be called. A new one is a `Protocol` in a file here, and a name in
`recipe/evaluation.py`.
"""

from __future__ import annotations

from palate.evals.protocols.choices import CHOICES
from palate.evals.protocols.declined import DECLINED
from palate.evals.protocols.items import Protocol
from palate.evals.protocols.memorised import MEMORISED
from palate.evals.protocols.responses import RESPONSES
from palate.evals.protocols.soundness import SOUNDNESS
from palate.evals.protocols.swayed import SWAYED
from palate.evals.protocols.texts import TEXTS
from palate.evals.protocols.truthful import TRUTHFUL
from palate.evals.protocols.unsure import UNSURE
from palate.evals.protocols.wins import WINS

PROTOCOLS: dict[str, Protocol] = {
    **WINS,
    **CHOICES,
    **TEXTS,
    **TRUTHFUL,
    **SOUNDNESS,
    **RESPONSES,
    **UNSURE,
    **SWAYED,
    **DECLINED,
    **MEMORISED,
}
