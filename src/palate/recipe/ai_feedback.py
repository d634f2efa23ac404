"""Recipes of AI feedback, the principles that it goes by, and where a model is asked that does not run here."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from palate.recipe.sections import (
    ChatTemplate,
    Count,
    Data,
    Engine,
    Fraction,
    MicrobatchTokens,
    Positive,
    PositiveInt,
    PromptsLeftOut,
    Sampling,
    Section,
)
from palate.records import content_id


class Principle(Section):
    """What is asked of two answers; and of a draft, where one is to be criticised and written anew."""

    name: str = Field(min_length=1, description="By which reports call it.")
    compare: str = Field(min_length=1, description="What is asked of two answers, such as `Which answer is kinder?`.")
    critique: str = Field("", description="What is asked about a draft; the answer is its critique.")
    revise: str = Field("", description="What is asked for then; the answer is the revision.")

    @model_validator(mode="after")
    def _both_or_neither(self) -> Principle:
        if bool(self.critique) != bool(self.revise):
            raise ValueError("a critique goes with a revision: write both, or leave both out")
        return self

    @property
    def revises(self) -> bool:
        """Whether it says how a draft is criticised and revised."""
        return bool(self.critique)


class Constitution(Section):
    """A file of principles: what answers are judged by, as somebody has written it down."""

    principles: tuple[Principle, ...] = Field(min_length=1, description="One `[[principles]]` for each.")

    @model_validator(mode="after")
    def _names_differ(self) -> Constitution:
        names = [principle.name for principle in self.principles]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two principles are called {twice[0]!r}")
        return self

    @property
    def version(self) -> str:
        """A hash of what it says: what was judged by another one has another."""
        return content_id("constitution", self.model_dump_json())


class Endpoint(Section):
    """Where a model is asked that does not run here: an OpenAI-compatible API."""

    url: str = Field(description="Where `/chat/completions` is, such as `http://localhost:8000/v1`.")
    key_variable: str = Field(
        "", description="Variable of the environment that holds the key. The key itself is written nowhere."
    )
    timeout_s: Positive = Field(60.0, description="Seconds without a byte, after which a request has failed.")
    retries: Count = Field(
        5, description="How often a request is made again: after 429, 5xx, a lost connection or a timeout."
    )
    at_once: PositiveInt = Field(4, description="Requests that are under way together.")
    max_requests: Count = Field(
        0, description="Requests, retries among them, after which a command stops; `--resume` has as many more. 0: any."
    )
    max_tokens: Count = Field(
        0, description="Tokens read and written, as the endpoint counts them, after which a command stops; likewise."
    )
    cache: str = Field(
        "", description="A folder of answers, shared by runs: nothing is asked twice. Empty: the run's directory."
    )

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("an address such as http://localhost:8000/v1")
        if parts.username or parts.password:
            raise ValueError("no user and no password belong into an address: name a key by key_variable")
        return url.rstrip("/")

    @field_validator("key_variable")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if name and not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):  # what stands there may be the key: it is not repeated
            raise ValueError("the name of a variable of the environment, such as OPENAI_API_KEY, and not the key")
        return name


PrinciplesPerPair = Annotated[
    PositiveInt,
    Field(
        description="Principles that are asked about each pair, drawn anew for each; the majority of them counts.",
    ),
]
Verdict = Annotated[
    Literal["same", "mean"],
    Field(
        description="`same`: the answer that is chosen in both orders; if another one is in each, a tie. `mean`: the "
        "one that more of the model is for over both orders, which takes out a steady preference for a place.",
    ),
]
Samples = Annotated[
    Count,
    Field(
        description="Answers drawn to each question, of which the majority counts; 0: the letter that is more likely "
        "as the answer's first token.",
    ),
]


class ReaderJudge(Section):
    """A model that says how far an answer follows what its reader asks for."""

    model: str = Field(description="Model that is asked; with an endpoint, what it is called there.")
    endpoint: Endpoint | None = Field(None, description="Where it is asked; absent: it runs here.")
    weight: Positive = Field(
        1.0, description="Of each principle's log-odds of Yes against No, beside the rewards; in their unit per nat."
    )


def check_place(endpoint: Endpoint | None, chat_template: str, precision: str) -> None:
    """Raises:
    ValueError: settings of a model that runs here, for one that does not.
    """
    if endpoint is not None and (chat_template or precision != "auto"):
        raise ValueError("chat_template and precision are of a model that runs here: leave them out, or the endpoint")


class JudgeRecipe(Section):
    """A model compares answers by the principles of a constitution."""

    stage: Literal["judge"] = "judge"
    seed: int = Field(0, ge=0, description="All randomness is a function of this number.")
    model: str = Field("smollm2-135m", description="Model that judges; with an endpoint, what it is called there.")
    endpoint: Endpoint | None = Field(None, description="Where it is asked; absent: it runs here.")
    chat_template: ChatTemplate = ""
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products.")
    constitution: str = Field(description="A file of principles; `recipes/constitutions/` has one to start from.")
    candidates: Data = Field(
        description="What is judged: candidates of `palate sample`, or rankings, whose responses are judged anew."
    )
    people: Data | None = Field(None, description="People's rankings of the same responses, to agree with or not.")
    category: str = Field(
        "", description="Tag of the prompts, kept by `candidates.tags`, by whose values agreement with people is told."
    )
    win_rate_of_first: bool = Field(
        False,
        description="Every record is a pair, the answer in question first: tell how often people would prefer it, from "
        "the model's verdicts on all pairs and people's on those that they judged, drawn by lot.",
    )
    principles_per_pair: PrinciplesPerPair = 1
    verdict: Verdict = "same"
    samples: Samples = 0
    sampling: Sampling = Field(Sampling(), description="How they are drawn.")
    engine: Engine = Field(Engine(), description="What draws them.")
    max_left_out: Fraction = Field(
        0.05, description="Largest share of the pairs that may be left out because a question is too long."
    )
    microbatch_tokens: MicrobatchTokens = 4096

    @model_validator(mode="after")
    def _fits(self) -> JudgeRecipe:
        check_place(self.endpoint, self.chat_template, self.precision)
        if not self.samples and self.sampling != Sampling():
            raise ValueError("nothing is drawn without samples: set samples, or leave out sampling")
        if self.people is None and (self.category or self.win_rate_of_first):
            raise ValueError("category and win_rate_of_first hold the model against people: name people")
        return self


class ReviseRecipe(Section):
    """A model answers, criticises its answer by a principle, and writes it anew: demonstrations."""

    stage: Literal["revise"] = "revise"
    seed: int = Field(0, ge=0, description="All randomness is a function of this number.")
    model: str = Field("smollm2-135m", description="Model that writes; with an endpoint, what it is called there.")
    endpoint: Endpoint | None = Field(None, description="Where it is asked; absent: it runs here.")
    chat_template: ChatTemplate = ""
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products.")
    constitution: str = Field(description="A file of principles; `recipes/constitutions/` has one to start from.")
    prompts: Data = Field(description="Prompts to answer.")
    revisions: PositiveInt = Field(1, description="Rounds of critique and revision, each by a principle drawn for it.")
    sampling: Sampling = Field(Sampling(), description="Of drafts, critiques and revisions.")
    engine: Engine = Field(Engine(), description="What draws them.")
    keep_cut_off: bool = Field(False, description="Keep revisions that were cut off; otherwise they are left out.")
    max_left_out: PromptsLeftOut = 0.0

    @model_validator(mode="after")
    def _fits(self) -> ReviseRecipe:
        check_place(self.endpoint, self.chat_template, self.precision)
        return self
