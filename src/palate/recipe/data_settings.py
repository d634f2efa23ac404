"""What `palate data filter` and `palate data mine` ask of their material: one class, and one for each kind to mine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from palate.recipe.sections import Count, Fraction, NonNegative, Positive, PositiveInt, Section, TwoOrMore

AtLeastOne = Annotated[float, Field(ge=1)]


class ForumMining(Section):
    """Answers to a question with their votes: the one with more votes is preferred, where little else explains it."""

    scale: Literal["votes", "log2"] = Field(
        "votes",
        description="`votes` as they are, or `log2`: the rounded logarithm of 1 + votes, 1 more if the answer was "
        "accepted, -1 for negative votes (Askell et al. 2021, arXiv 2112.00861).",
    )
    min_score: float = Field(1.0, description="Least score of the better one, on that scale.")
    min_gap: NonNegative = Field(2.0, description="Least difference of the scores.")
    min_ratio: AtLeastOne = Field(
        1.0, description="Least ratio of the scores; a worse one of zero or less is below every ratio."
    )
    max_head_start_hours: NonNegative = Field(
        0.0,
        description="The better one may be older by this much at most: whoever wrote first had longer to collect votes "
        "(Ethayarajh et al. 2022, arXiv 2110.08420).",
    )
    require_times: bool = Field(True, description="Leave out pairs of which one has no time of writing.")
    max_longer_share: Fraction = Field(
        1.0, description="Largest share of pairs in which the better one has more words; 1 only reports the share."
    )
    max_pairs: PositiveInt = Field(10, description="Most pairs of a question: those with the largest gap.")


class ThumbMining(Section):
    """Thumbs: a liked response is preferred over a disliked one to the same prompt, or each stays a thumb."""

    to: Literal["pairs", "thumbs"] = Field("pairs", description="`thumbs` is what `palate kto` learns from.")
    max_pairs: PositiveInt = Field(10, description="Most pairs of a prompt, chosen by hash.")


class TreeMining(Section):
    """Message trees: the ranks that people gave the answers to one turn."""

    min_responses: Annotated[int, Field(ge=2)] = Field(2, description="Fewest ranked answers to a turn.")
    max_per_tree: Count = Field(0, description="Most rankings of a tree, from its root on; 0 takes all.")


class RefusalMining(Section):
    """Refusal templates: preferred where a prompt is marked as harmful, dispreferred where it is not."""

    tag: str = Field("harmful", description="The prompt's tag that says whether it is harmful (see --tag).")
    harmful: tuple[str, ...] = Field(("true", "yes", "1", "harmful"), description="What it says of one that is.")
    harmless: tuple[str, ...] = Field(("false", "no", "0", "harmless"), description="What it says of one that is not.")
    harmful_share: Fraction = Field(
        0.5, description="Share of pairs of harmful prompts; what is too much of either is left out by hash."
    )
    max_pairs: PositiveInt = Field(1, description="Most pairs of a prompt.")
    templates: str = Field(
        "", description="A file of refusals, one a line; `{prompt}` and the names of tags in braces are filled in."
    )
    patterns: str = Field(
        "", description="A file of regular expressions, one a line, by which a response is known to refuse."
    )
    seed: Count = Field(0, description="Which template a prompt gets follows from it.")


class AbstentionMining(Section):
    """What a model knows, by its own samples: where it is wrong, saying that it does not know is preferred."""

    answers: str = Field("", description="A file of questions with their known answers.")
    match: Literal["contains", "exact"] = Field(
        "contains",
        description="A sample is right if it holds an answer as whole words, or if it is one, after the normalisation "
        "of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250).",
    )
    min_samples: PositiveInt = Field(4, description="Fewest samples of a question.")
    knows: Fraction = Field(0.75, description="Share of right samples from which on the model knows.")
    does_not_know: Fraction = Field(0.0, description="Share up to which it does not.")
    max_pairs: PositiveInt = Field(2, description="Most pairs of each kind and question, of different texts.")
    max_unsure_share: Fraction = Field(
        1.0,
        description="Largest share of pairs in which saying that it does not know is preferred; more of them are left "
        "out, chosen by hash. 1: all stay.",
    )
    unanswerable: bool = Field(
        False,
        description="A question in the file that has no answer is one that nobody can answer: saying so is preferred "
        "over whatever is said. False: its answer is merely not there, and nothing is made of it.",
    )
    templates: str = Field(
        "", description="A file of ways to say so, one a line; `{prompt}` and tags in braces are filled in."
    )
    patterns: str = Field("", description="A file of regular expressions, one a line, by which a sample says so.")
    seed: Count = Field(0, description="Which template a question gets follows from it.")


class AbstentionMeasuring(Section):
    """How often a model says that it does not know, and where."""

    answers: str = Field("", description="A file of questions with their known answers; without any: unanswerable.")
    match: Literal["contains", "exact"] = Field(
        "contains", description="A response is right if it holds an answer as whole words, or if it is one."
    )
    patterns: str = Field(
        "", description="A file of regular expressions, one a line, by which a response says that it does not know."
    )
    seed: Count = Field(0, description="Of the intervals, and of which responses are shown.")


class Hygiene(Section):
    """Demonstrations that would teach what nobody wants."""

    drop_refusals: bool = Field(True, description="Leave out canned refusals.")
    drop_flipped: bool = Field(True, description="Leave out demonstrations in which the roles look exchanged.")
    drop_truncated: bool = Field(True, description="Leave out responses that look cut off.")
    drop_duplicates: bool = Field(True, description="Leave out what differs from an earlier one in case and blanks.")
    truncated_words: PositiveInt = Field(
        30, description="A response of prose with so many words has to end with a full stop or its like."
    )
    patterns: str = Field("", description="A file of regular expressions, one a line, of canned refusals.")


class Quality(Section):
    """Gopher's thresholds (Rae et al. 2021, arXiv 2112.11446, appendix A.1), and how alike two documents may be."""

    min_words: Count = Field(50, description="Fewest words.")
    max_words: PositiveInt = Field(100_000, description="Most words.")
    min_word_length: NonNegative = Field(3.0, description="Least mean length of a word, in characters.")
    max_word_length: Positive = Field(10.0, description="Largest mean length of a word.")
    max_symbols: NonNegative = Field(0.1, description="Most marks `#` or `...` for each word.")
    max_bullets: Fraction = Field(0.9, description="Largest share of lines that begin with a bullet.")
    max_ellipses: Fraction = Field(0.3, description="Largest share of lines that end with an ellipsis.")
    min_alphabetic: Fraction = Field(0.8, description="Least share of words with a letter in them.")
    stop_words: tuple[str, ...] = Field(
        ("the", "be", "to", "of", "and", "that", "have", "with"), description="Words that connected text has."
    )
    min_stop_words: Count = Field(2, description="How many different ones of them it has at least.")
    max_repeated_lines: Fraction = Field(0.3, description="Largest share of lines that repeat an earlier one.")
    max_repeated_paragraphs: Fraction = Field(0.3, description="Largest share of paragraphs that do.")
    max_in_repeated_lines: Fraction = Field(0.2, description="Largest share of characters in such lines.")
    max_in_repeated_paragraphs: Fraction = Field(0.2, description="Largest share of characters in such paragraphs.")
    max_in_top_2gram: Fraction = Field(0.20, description="Largest share of characters in the commonest two words.")
    max_in_top_3gram: Fraction = Field(0.18, description="Largest share of characters in the commonest three words.")
    max_in_top_4gram: Fraction = Field(0.16, description="Largest share of characters in the commonest four words.")
    max_in_repeated_5grams: Fraction = Field(
        0.15, description="Largest share of characters in runs of 5 words that repeat."
    )
    max_in_repeated_10grams: Fraction = Field(
        0.10, description="Largest share of characters in runs of 10 words that repeat."
    )
    max_similarity: Fraction = Field(
        0.8,
        description="Two documents whose runs of words are shared to this part are near duplicates; 1 turns it off.",
    )
    shingle_words: TwoOrMore = Field(5, description="Words in such a run.")
