"""What a document must be like to be learned from: the thresholds of `palate data filter`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from palate.recipe.sections import Fraction, NonNegative, Positive, PositiveInt, Section, TwoOrMore

Count = Annotated[int, Field(ge=0)]


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
