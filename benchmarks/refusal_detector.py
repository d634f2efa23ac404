"""How far the lexical detector of refusals agrees with a reader, on last answers of `hh_harmless`'s dialogues.

    python benchmarks/refusal_detector.py hh_harmless/pairs.jsonl.gz

Three samples were read, of at most 170 to 260 characters each (`results/refusal_labels.json`; hashes of the texts and
whether they refuse): 40 that the patterns found, 40 that they did not find although "can't", "sorry" or the like stands
in them, and 90 short ones at random. The patterns were written before, from other answers of the same file.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

from palate.evals.protocols.declined import refuses
from palate.records import content_id

LABELS = Path(__file__).parent / "results" / "refusal_labels.json"


def main() -> None:
    """A line for each sample."""
    texts = {}
    with gzip.open(sys.argv[1], "rt", encoding="utf-8") as lines:
        for line in lines:
            for text in json.loads(line).values():
                answer = str(text).split("\n\nAssistant:")[-1].strip()
                texts[content_id(answer)] = answer
    for name, labels in json.loads(LABELS.read_text(encoding="utf-8")).items():
        known = {key: refusing for key, refusing in labels.items() if key in texts}
        both = sum(refusing and refuses(texts[key]) for key, refusing in known.items())
        found = sum(refuses(texts[key]) for key in known)
        print(
            f"{name}: {len(known)} of {len(labels)} answers; {sum(known.values())} refuse, {found} found, {both} both"
        )


if __name__ == "__main__":
    main()
