"""Encodes and decodes text and renders chat templates. No torch."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.model.tokenizer.chat import ChatSettings
    from thothy_batch.model.tokenizer.chat_template import ChatRefusedError
    from thothy_batch.model.tokenizer.reasoning import ReasoningSplitter
    from thothy_batch.model.tokenizer.tokenizer import Tokenizer, load_tokenizer

__all__ = ["ChatRefusedError", "ChatSettings", "ReasoningSplitter", "Tokenizer", "load_tokenizer"]

__getattr__ = lazy_face(
    __name__,
    {
        "chat": ("ChatSettings",),
        "chat_template": ("ChatRefusedError",),
        "reasoning": ("ReasoningSplitter",),
        "tokenizer": (
            "Tokenizer",
            "load_tokenizer",
        ),
    },
)
