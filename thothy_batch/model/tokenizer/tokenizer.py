"""Encodes text and messages into token ids and decodes ids into text. Imports no torch.

The text of a chat template is encoded without further special tokens, so the begin-of-sequence
token occurs once or not at all, as the template says.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from thothy_batch.model.config.model_config import stop_token_ids
from thothy_batch.model.tokenizer.backend import TOKENIZER, TokenizerParts, load_parts
from thothy_batch.model.tokenizer.chat_template import ChatTemplate, Message, find_template
from thothy_batch.model.tokenizer.detokenizer import Detokenizer
from thothy_batch.records import TokenIds

_FIRST_MARK = 0xF0000  # private-use characters, which no meaningful text contains


class Tokenizer:
    """The tokenizer of one checkpoint. Pickles as its directory and is read again from there."""

    def __init__(self, directory: Path, parts: TokenizerParts) -> None:
        self._directory = directory
        self._backend = parts.backend
        source = find_template(directory, parts.settings)
        self._template = None if source is None else ChatTemplate(source, parts.named_tokens)
        added = parts.backend.get_added_tokens_decoder()
        self.special_token_ids = {t.content: i for i, t in added.items() if t.special}
        self._detokenizer = Detokenizer(parts.backend)
        # Runs of spaces or tabs are added tokens of some vocabularies but control nothing.
        self._control = _ControlTokens(
            {t.content: i for i, t in added.items() if not t.content.isspace()}
        )
        self.bos_token_id = self._id_of(parts.named_tokens.get("bos_token"))
        self.eos_token_id = self._id_of(parts.named_tokens.get("eos_token"))
        self._leading_ids = self._find_leading_ids()
        self._newline_ids = self.encode("\n")
        own = set() if self.eos_token_id is None else {self.eos_token_id}
        self.stop_token_ids = frozenset(own | set(stop_token_ids(directory)))

    @classmethod
    def from_dir(cls, directory: Path) -> "Tokenizer":
        """Read a checkpoint's tokenizer. ModelError if tokenizer.json is missing or broken."""
        return cls(directory, load_parts(directory))

    def __reduce__(self) -> tuple[object, ...]:
        return Tokenizer.from_dir, (self._directory,)

    @property
    def vocab_size(self) -> int:
        """Number of ids of this tokenizer; the model's vocabulary may be padded beyond it."""
        return self._backend.get_vocab_size()

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """Encode the text alone. Special tokens written in the text become those tokens."""
        return self._encode([text], special=False)[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts at once, on all cores."""
        return self._encode(texts, special=False)

    def encode_raw(self, text: str) -> list[int]:
        """Encode the text with the tokenizer's own special tokens around it.

        A begin-of-sequence token at the start of the text is not doubled.
        """
        return self.encode_raw_batch([text])[0]

    def encode_raw_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts like `encode_raw`."""
        return [self._without_double_bos(ids) for ids in self._encode(texts, special=True)]

    def decode(self, token_ids: TokenIds, skip_special: bool = True) -> str:
        """Decode ids into text; unknown ids give nothing."""
        return self._detokenizer.decode(token_ids, skip_special)

    def decode_whole(self, token_ids: TokenIds, skip_special: bool = True) -> str:
        """Decode ids, but a character at their end whose last bytes are missing."""
        return self._detokenizer.decode_whole(token_ids, skip_special)

    def is_boundary(self, token_ids: TokenIds, skip_special: bool = True) -> bool:
        """Return whether the text of these ids is the same whatever ids follow."""
        return self._detokenizer.is_boundary(token_ids, skip_special)

    def render_chat(self, messages: Sequence[Message]) -> str:
        """Render a prompt. Without a chat template: the contents, each followed by a blank line."""
        if self._template is not None:
            return self._template.render(messages)
        return "".join(message["content"] + "\n\n" for message in messages)

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """Encode the prompt of these messages, up to the model's turn.

        A control token's text inside a message ("<|im_end|>", "<s>") is encoded as ordinary
        characters: only the template produces control tokens. For any other text the ids equal
        those of transformers' apply_chat_template.
        """
        return self.chat_ids_batch([messages])[0]

    def chat_ids_batch(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Encode many conversations like `chat_ids`."""
        marked = [self._control.mark(messages) for messages in conversations]
        texts = [self.render_chat(messages) for messages, _ in marked]
        plain = [i for i, (_, marks) in enumerate(marked) if not marks]
        encoded = dict(zip(plain, self.encode_batch([texts[i] for i in plain]), strict=True))
        for i, (_, marks) in enumerate(marked):
            if marks:
                encoded[i] = self._encode_marked(texts[i], marks)
        leading = [] if self.has_chat_template else self._leading_ids
        return [leading + encoded[i] for i in range(len(texts))]

    def _encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=special)
        return [list(encoding.ids) for encoding in encodings]

    def _encode_marked(self, text: str, marks: str) -> list[int]:
        """Encode a rendered prompt in which `marks` enclose control tokens' texts."""
        pieces = self._control.split(text, marks)
        ids = self.encode(pieces[0].text)
        for piece in pieces[1:]:
            ids += self._encode_inside(piece.text, as_text=piece.is_marked)
        return ids

    def _encode_inside(self, piece: str, *, as_text: bool) -> list[int]:
        """Encode a piece that does not start the prompt.

        The piece is encoded after a newline, which is cut off again: SentencePiece vocabularies
        put a space before the start of a text.
        """
        encode = self._encode_as_text if as_text else self.encode
        ids = encode("\n" + piece)
        if ids[: len(self._newline_ids)] == self._newline_ids:
            return ids[len(self._newline_ids) :]
        return encode(piece)

    def _encode_as_text(self, text: str) -> list[int]:
        """Encode by normaliser, splitter and merges alone, without added tokens."""
        if self._backend.normalizer is not None:
            text = self._backend.normalizer.normalize_str(text)
        pieces = [text]
        if self._backend.pre_tokenizer is not None:
            pieces = [piece for piece, _ in self._backend.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for piece in pieces for token in self._backend.model.tokenize(piece)]

    def _without_double_bos(self, ids: list[int]) -> list[int]:
        bos = self.bos_token_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    def _find_leading_ids(self) -> list[int]:
        """Return the special tokens that the tokenizer puts before every text."""
        encoding = self._backend.encode("a", add_special_tokens=True)
        ids = []
        for token_id, is_special in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
            if not is_special:
                break
            ids.append(token_id)
        return ids

    def _id_of(self, text: str | None) -> int | None:
        return None if text is None else self._backend.token_to_id(text)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a rendered prompt; a marked one is the text of a control token in a message."""

    text: str
    is_marked: bool


class _ControlTokens:
    """Finds the texts of control tokens in messages and marks them."""

    def __init__(self, ids: dict[str, int]) -> None:
        longest_first = sorted(ids, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        # Almost no text contains one: two characters of each are searched before the long pattern.
        self._prefixes = sorted({text[:2] for text in ids})

    def mark(self, messages: Sequence[Message]) -> tuple[Sequence[Message], str]:
        """Return the messages with marks, and the two mark characters ("" if nothing was found)."""
        contents = [message["content"] for message in messages]
        if not any(self._found_in(content) for content in contents):
            return messages, ""
        begin, end = _unused_characters(contents)
        marked = [
            {**message, "content": self._pattern.sub(f"{begin}\\g<0>{end}", message["content"])}
            for message in messages
        ]
        return marked, begin + end

    def split(self, text: str, marks: str) -> list["_Piece"]:
        """Cut a rendered prompt at its marks, the first piece never a marked one.

        A template may cut a text between a token and its mark; such a lone mark is dropped.
        """
        begin, end = marks[0], marks[1]
        cuts = re.split(f"{begin}({self._pattern.pattern}){end}|[{marks}]", text)
        pieces = [_Piece(part or "", bool(i % 2)) for i, part in enumerate(cuts)]
        return pieces[:1] + [piece for piece in pieces[1:] if piece.text]

    def _found_in(self, content: str) -> bool:
        if not any(prefix in content for prefix in self._prefixes):
            return False
        return self._pattern.search(content) is not None


def load_tokenizer(directory: Path) -> Tokenizer | None:
    """Load the checkpoint's tokenizer; None if it has none (token-id prompts need none)."""
    return Tokenizer.from_dir(directory) if (directory / TOKENIZER).is_file() else None


def _unused_characters(contents: Iterable[str]) -> tuple[str, str]:
    used = set().union(*contents)
    free = (chr(code) for code in range(_FIRST_MARK, _FIRST_MARK + 0xFFFD) if chr(code) not in used)
    return next(free), next(free)
