"""Messages to tokens and back, through the model's own chat template.

Prompt and response are tokenised apart, so the prompt's tokens are always an exact prefix of the whole and the tokens
of the sampler are exactly the ones that training sees. That is only right for templates that lay a conversation out as
prompt, response, stop token; `Chat` checks this once, when it is made, and refuses the others.

Only the template makes special tokens. Whoever types ``<|im_end|>`` into a message gets those ten characters, not the
end of their turn: otherwise a chat user could forge the system's or the assistant's turns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from palate.errors import TemplateError
from palate.records import Message, Prompt

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() + ':\n' + message['content'] }}"
    "{{ eos_token + '\n' if message['role'] == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
"""For base models that have no template of their own; saved with the model, so that others read it the same way.

A line break and not a space before the response: many tokenizers merge a space with the word after it.
"""

_BREAK = "\ufdd0"
"""A character that no text may hold (Unicode keeps it free); tokens are never merged across it, and it makes none."""


class Chat:
    """A tokenizer and its template.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
        stop_id: the token that ends a response; part of the response.
        pad_id: another token than that, for those who must tell padding from tokens; None if there is no such token.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise TemplateError("the tokenizer has no EOS token: a response could never end")
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            starts_with_bos = tokenizer.bos_token and list(tokenizer("").input_ids[:1]) == [tokenizer.bos_token_id]
            tokenizer.chat_template = ("{{ bos_token }}" if starts_with_bos else "") + PLAIN_TEMPLATE
        specials = {
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special and token.content
        }
        longest_first = sorted(specials | set(tokenizer.all_special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.stop_id = self._check()
        self.pad_id = self._set_padding()

    def prompt_tokens(self, prompt: Prompt | Sequence[Message]) -> list[int]:
        """The conversation so far and the template's opening of the assistant's turn."""
        messages = prompt.messages if isinstance(prompt, Prompt) else prompt
        _refuse_tools(messages, prompt.tools if isinstance(prompt, Prompt) else ())
        return self._tokens(self._render(messages, opened=True))

    def response_tokens(self, text: str) -> list[int]:
        """The response and the stop token."""
        return [*self._tokens(self._spelled(text)), self.stop_id]

    def dialogue_tokens(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[int], list[bool]]:
        """A whole conversation, and which tokens are to be learned: the assistant's, but for turns that say otherwise.

        The stop token of a turn belongs to it.

        Raises:
            TemplateError: the template rewrites earlier turns once later ones are known.
        """
        _refuse_tools(messages, tools)
        tokens: list[int] = []
        mask: list[bool] = []
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self.prompt_tokens(messages[:index])
            if before[: len(tokens)] != tokens:
                raise TemplateError("the chat template changes earlier turns when later ones are added")
            response = self.response_tokens(message.content)
            mask += [False] * (len(before) - len(tokens)) + [message.learn] * len(response)
            tokens = before + response
        return tokens, mask

    def text(self, tokens: Sequence[int]) -> str:
        """A response's text, without the stop token and other special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def _tokens(self, text: str) -> list[int]:
        parts = text.split(_BREAK)
        return [token for part in parts for token in self.tokenizer(part, add_special_tokens=False).input_ids]

    def _spelled(self, text: str) -> str:
        """What people and models wrote, with the names of special tokens broken up so that they stay text."""
        plain = text.replace(_BREAK, "")
        return self._special.sub(lambda found: found[0][0] + _BREAK + found[0][1:], plain)

    def _render(self, messages: Sequence[Message], *, opened: bool) -> str:
        from jinja2 import TemplateError as TemplateRefusal

        turns = [{"role": message.role, "content": self._spelled(message.content)} for message in messages]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opened))
        except TemplateRefusal as error:
            roles = ", ".join(message.role for message in messages)
            raise TemplateError(f"the chat template refuses a conversation of {roles}: {error}") from None

    def _check(self) -> int:
        """The template must read prompt, response, stop token, and not begin with two BOS; returns the stop token."""
        question, reply = Message(role="user", content="What is red?"), Message(role="assistant", content="Roses are.")
        opened, whole = self._render([question], opened=True), self._render([question, reply], opened=False)
        expected = opened + reply.content
        if not whole.startswith(expected):
            raise TemplateError(
                "the chat template breaks the prefix rule: a prompt with the assistant's turn opened, then the "
                f"response, must be how the whole conversation begins; it gives {whole!r}, expected a text that "
                f"begins with {expected!r}"
            )
        prompt, after = self._tokens(opened), self._tokens(whole[len(expected) :])
        if not after or not self._is_special(after[0]):
            raise TemplateError(
                "the chat template breaks the prefix rule: a special token such as "
                f"{self.tokenizer.eos_token!r} must follow the response; it gives {whole!r}"
            )
        if self._tokens(expected)[: len(prompt)] != prompt:
            raise TemplateError(
                "the tokenizer merges the end of the prompt with the start of the response: let the chat template end "
                "the opening of the assistant's turn with a line break or a special token"
            )
        bos = self.tokenizer.bos_token_id
        if bos is not None and prompt[:2] == [bos, bos]:
            raise TemplateError("the chat template adds BOS twice: remove one")
        return after[0]

    def _is_special(self, token: int) -> bool:
        known = self.tokenizer.added_tokens_decoder.get(token)
        return token in self.tokenizer.all_special_ids or (known is not None and known.special)

    def _set_padding(self) -> int | None:
        """Let the tokenizer pad with a token that never ends a response."""
        specials = [
            self.tokenizer.pad_token_id,
            self.tokenizer.unk_token_id,
            *sorted(self.tokenizer.added_tokens_decoder),
        ]
        ends = {self.stop_id, self.tokenizer.eos_token_id, None}
        chosen = next((token for token in specials if token not in ends and self._is_special(token)), None)
        if chosen is not None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(chosen)
        return chosen


def _refuse_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> None:
    if tools or any(message.role == "tool" or message.tool_calls for message in messages):
        raise TemplateError("a conversation with tools: the chat template is given texts alone, so it cannot show them")
