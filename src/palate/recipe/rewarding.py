"""The terms of a reward: learned, a function, a length, or a check (a verifier)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from palate.recipe.sections import Fraction, NonNegative, Positive, PositiveInt, Section


class Verifier(Section):
    """A check that gives 1, 0 or a share; each kind has settings of its own and refuses those of the others."""

    kind: Literal["number", "quotes", "pattern", "shape", "schema", "tests"] = Field(
        description="What is checked: a `number` that is known, `quotes` that must stand in the text that was given, a "
        "`pattern`, the `shape` (format and length), JSON by its `schema`, or the unit `tests` of code."
    )
    tag: str = Field(
        "",
        description="Tag of the prompt that holds what is known about it, kept by `prompts.tags`. Empty: `answer` for "
        "numbers, `tests` for tests; quotes are then looked for in the prompt itself.",
    )
    fewest_words: PositiveInt = Field(3, description="Of a quote, for it to count.")
    without_quotes: Fraction = Field(0.0, description="What a response without a quote that counts scores.")
    must_match: tuple[str, ...] = Field((), description="Regular expressions, all of which must be found.")
    must_not_match: tuple[str, ...] = Field((), description="Regular expressions, none of which may be found.")
    starts_with: str = Field("", description="How the response must begin.")
    ends_with: str = Field("", description="How it must end.")
    max_words: PositiveInt | None = Field(None, description="Most words it may have.")
    sections: tuple[str, ...] = Field((), description="Headings that must stand in it, in this order, a line each.")
    json_schema: Mapping[str, Any] = Field(
        {}, description="What the JSON must be like; or every prompt has a schema of its own, as JSON in `tag`."
    )
    seconds: Positive = Field(5.0, description="Time for code and tests; it is the wall's, and ends all they started.")
    memory_mb: int = Field(512, ge=64, description="MiB of address space for each process of theirs.")
    isolation: Literal["full", "limits"] = Field(
        "full",
        description="`full`: no network, no files but Python's own and a scratch directory, no other processes; where "
        "the system cannot do that the run is refused. `limits`: time, memory and output alone, on a machine that may "
        "be lost.",
    )

    @field_validator("must_match", "must_not_match")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Verifier:
        own = _SETTINGS[self.kind]
        others = type(self).model_fields.keys() - {"kind", *own}
        # not `model_fields_set`: a recipe that a run wrote down has every key
        if strange := sorted(name for name in others if getattr(self, name) != type(self).model_fields[name].default):
            raise ValueError(f'{strange[0]} is no setting of kind "{self.kind}", which has {", ".join(own)}')
        if (needed := _NEEDED.get(self.kind)) and not any(getattr(self, name) for name in needed):
            raise ValueError(f'kind "{self.kind}" checks nothing: set {" or ".join(needed)}')
        if self.json_schema and self.tag:
            raise ValueError("json_schema and tag: either one schema for all, or one that comes with each prompt")
        return self


_SETTINGS = {
    "number": ("tag",),
    "quotes": ("tag", "fewest_words", "without_quotes"),
    "pattern": ("must_match", "must_not_match"),
    "shape": ("starts_with", "ends_with", "max_words", "sections"),
    "schema": ("json_schema", "tag"),
    "tests": ("tag", "seconds", "memory_mb", "isolation"),
}
_NEEDED = {"pattern": _SETTINGS["pattern"], "shape": _SETTINGS["shape"], "schema": _SETTINGS["schema"]}


class Reward(Section):
    """One term of the reward."""

    model: str = Field("", description="A trained reward model's directory.")
    ensemble: tuple[str, ...] = Field((), description="Several of them instead: all their heads are one ensemble.")
    objective: str = Field("", description="What of a reward model counts, if it learned several objectives.")
    aggregation: Literal["mean", "min", "mean_minus_std", "mean_minus_variance"] = Field(
        "mean", description="One score from those of an ensemble; all but the mean pay less where its members disagree."
    )
    uncertainty_coef: NonNegative = Field(
        1.0, description="Standard deviations, or variances, that such an aggregation takes from the mean."
    )
    function: str = Field("", description="A Python function `package.module:name` of (prompts, responses).")
    length: Positive | None = Field(None, description="Minus the number of words above this one, in tens.")
    verifier: Verifier | None = Field(None, description="A check, which gives a number between 0 and 1.")
    weight: float = Field(
        1.0, description="Weight in the sum; of a flag the price of a response that is sure to be flagged."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Reward:
        kinds = (self.model, self.ensemble, self.function, self.length, self.verifier)
        if sum(bool(kind) for kind in kinds) != 1:
            raise ValueError("name exactly one of model, ensemble, function, length, verifier")
        if not self.models and (self.objective or self.aggregation != "mean"):
            raise ValueError("objective and aggregation belong to a model, or an ensemble of them")
        if len(set(self.ensemble)) != len(self.ensemble):
            raise ValueError("a model is named twice in ensemble: its heads would count double")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """The reward models that are named."""
        return (self.model,) if self.model else self.ensemble
