"""What makes two models answer alike: weights, config, tokenizer and template, precision, and this program's version.

Answers that were given before are kept under it; what was asked is hashed beside it, to the letter.
"""

from __future__ import annotations

import json

from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded
from palate.records import content_id
from palate.run.lineage import versions

VERSION = 2
"""To be raised when the same question to the same model is answered otherwise."""
_NO_MATTER = ("_name_or_path", "transformers_version", "architectures")


def identity(loaded: Loaded[LanguageModel]) -> str:
    """The same for models that answer alike."""
    config = {key: value for key, value in loaded.model.config.to_dict().items() if key not in _NO_MATTER}
    return content_id(
        f"{versions()['palate']} {VERSION}",
        loaded.weights,
        str(loaded.model.model.dtype),
        json.dumps(config, sort_keys=True, default=str),
        *_of_text(loaded.chat),
    )


def reading(chat: Chat) -> str:
    """The same for models that get the same tokens for the same text or conversation."""
    ends = chat.tokenizer.bos_token_id, chat.tokenizer.eos_token_id, chat.stop_id
    return content_id(*_of_text(chat), *map(str, ends))


def _of_text(chat: Chat) -> tuple[str, str]:
    backend = getattr(chat.tokenizer, "backend_tokenizer", None)
    vocabulary = json.dumps(chat.tokenizer.get_vocab(), sort_keys=True) if backend is None else backend.to_str()
    return vocabulary, str(chat.tokenizer.chat_template)
