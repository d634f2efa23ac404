"""Does distance in a model's own states tell strange prompts from known ones? Held-out topics, code, other languages.

    python benchmarks/planted_strangers.py convarg/strict_pairs.jsonl.gz

Training prompts are arguments about eight topics; `known` are others about the same. Strangers are arguments about
three other topics, Python functions of the standard library, and everyday questions in German, French and Spanish.
Each is told from the known by its mean distance to the ten nearest training prompts: the area under the curve, 95% by
text.
"""

from __future__ import annotations

import argparse
import gzip
import inspect
import json
import statistics
import textwrap
from types import ModuleType

import numpy as np

from palate.evals.asking.embedding import embedded
from palate.evals.coverage import covered, frame_of
from palate.evals.discrimination import area_under_curve
from palate.lm.sources.zoo import load_language_model
from palate.randomness import permutation

NEIGHBOURS = 10
THINGS = {
    "German": ("Wie erkläre ich einem Kind {}?", "das Wetter,die Steuern,den Mond,das Internet,die Zeit,Musik,Geld"),
    "French": ("Pourquoi faut-il parler de {} ?", "la pluie,l'école,la guerre,l'amour,la cuisine,la lune,la mer"),
    "Spanish": ("¿Qué piensas hoy sobre {}?", "el fútbol,la lluvia,la familia,el dinero,la luna,el cine,el pan"),
}


def functions(*modules: ModuleType) -> list[str]:
    """The beginnings of their functions."""
    found = (
        inspect.getsource(each)[:400]
        for module in modules
        for _, each in inspect.getmembers(module, inspect.isfunction)
    )
    return [text for text in found if len(text) > 60][:40]


def main() -> None:
    """A line for each kind of stranger."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("pairs")
    arguments.add_argument("--model", default="smollm2-135m")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    topics: dict[str, set[str]] = {}
    with gzip.open(given.pairs, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            topics.setdefault(row["topic"], set()).update((row["a1"], row["a2"]))
    names = [sorted(topics)[place] for place in permutation(len(topics), given.seed, "topics")]
    texts = {
        name: [sorted(topics[name])[place] for place in permutation(len(topics[name]), given.seed, name)]
        for name in names
    }
    groups = {
        "training": [text for name in names[:8] for text in texts[name][:25]],
        "known": [text for name in names[:8] for text in texts[name][25:30]],
        "other topics": [text for name in names[8:] for text in texts[name][:14]],
        "code": functions(argparse, json, statistics, textwrap, inspect),
        "other languages": [form.format(thing) for form, things in THINGS.values() for thing in things.split(",")],
    }
    loaded = load_language_model(given.model)
    flat = [text for group in groups.values() for text in group]
    points, _ = embedded(loaded.model, loaded.chat.tokenizer, flat, max_tokens=4096)
    parts = dict(zip(groups, np.split(points, np.cumsum([len(group) for group in groups.values()])[:-1]), strict=True))
    frame = frame_of(parts["training"])
    found = {
        name: covered(frame(parts["training"]), frame(part), neighbours=NEIGHBOURS, seed=0)
        for name, part in parts.items()
        if name != "training"
    }
    print(f"seed {given.seed}: training topics without {', '.join(names[8:])}")
    print(f"known: {found['known'].inside} inside")
    for name in ("other topics", "code", "other languages"):
        both = np.concatenate([found[name].distances, found["known"].distances])
        strange = np.arange(len(both)) < len(found[name].distances)
        area = area_under_curve(both, strange, [str(place) for place in range(len(both))], seed=0)
        print(f"{name}: area {area}, {found[name].inside} inside, of {int(strange.sum())}")


if __name__ == "__main__":
    main()
