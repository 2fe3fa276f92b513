"""Encodes text and messages into token ids and decodes ids into text. Imports no torch.

The text of a chat template is encoded without further special tokens, so the begin-of-sequence
token occurs once or not at all, as the template says.
"""

from collections.abc import Sequence
from pathlib import Path

from thothy_batch.errors import ModelError
from thothy_batch.model.checkpoint.files import is_there
from thothy_batch.model.config.stop_tokens import stop_token_places
from thothy_batch.model.tokenizer.backend import TOKENIZER, TokenizerParts, load_parts
from thothy_batch.model.tokenizer.chat import Chat, ChatSettings
from thothy_batch.model.tokenizer.chat_template import ChatTemplate
from thothy_batch.model.tokenizer.control_tokens import ControlTokens, Message, control_texts
from thothy_batch.model.tokenizer.detokenizer import Detokenizer
from thothy_batch.model.tokenizer.template_files import find_template
from thothy_batch.records import TokenIds


class Tokenizer:
    """The tokenizer of one checkpoint. Pickles as its directory and is read again from there."""

    def __init__(self, directory: Path, parts: TokenizerParts) -> None:
        self._directory = directory
        self._backend = parts.backend
        source = find_template(directory, parts.settings)
        self._template: ChatTemplate | None = None
        if source is not None:
            self._template = ChatTemplate(source.text, parts.named_tokens, source.where)
        self._settings = ChatSettings()
        self._chat = Chat(self._template, self._settings)
        self._bound: dict[ChatSettings, Tokenizer] = {}
        added = parts.backend.get_added_tokens_decoder()
        self.special_token_ids = {t.content: i for i, t in added.items() if t.special}
        self._detokenizer = Detokenizer(parts.backend)
        self.bos_token_id = self._id_of(parts.named_tokens.get("bos_token"))
        self.eos_token_id = self._id_of(parts.named_tokens.get("eos_token"))
        self._leading_ids = self._find_leading_ids()
        self._newline_ids = self.encode("\n")
        self._stop_places = stop_token_places(directory)
        if self.eos_token_id is not None:
            place = f"{parts.eos_file}: eos_token {parts.named_tokens['eos_token']!r}"
            self._stop_places.setdefault(self.eos_token_id, place)
        self.stop_token_ids = frozenset(self._stop_places)
        self._control = ControlTokens(
            control_texts(
                ((token.content, token.special) for token in added.values()),
                {added[i].content for i in self.stop_token_ids if i in added},
                "" if self._template is None else self._template.literal_text,
            )
        )

    @classmethod
    def from_dir(cls, directory: Path) -> "Tokenizer":
        """Read a checkpoint's tokenizer. ModelError if tokenizer.json is missing or broken."""
        return cls(directory, load_parts(directory))

    def __reduce__(self) -> tuple[object, ...]:
        return _load_with_chat, (self._directory, self._settings)

    def with_chat(self, settings: ChatSettings) -> "Tokenizer":
        """Return this tokenizer with a job's settings of the chat template; the same one again."""
        if settings not in self._bound:
            bound = object.__new__(Tokenizer)  # a copy would be read from its directory again
            bound.__dict__.update(self.__dict__)
            bound._settings, bound._chat = settings, Chat(self._template, settings)
            self._bound[settings] = bound
        return self._bound[settings]

    @property
    def vocab_size(self) -> int:
        """Number of ids of this tokenizer; the model's vocabulary may be padded beyond it."""
        return self._backend.get_vocab_size()

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    @property
    def reads_clock(self) -> bool:
        """True if a prompt of the chat template may depend on the date."""
        return self._chat.reads_clock

    @property
    def chat_notes(self) -> list[str]:
        """Sentences on what a user may not expect of the chat template."""
        return self._chat.notes

    def stop_notes(self, vocab_size: int) -> list[str]:
        """Sentences on end tokens that a model with this vocabulary cannot write."""
        beyond = [i for i in sorted(self._stop_places) if i >= vocab_size]
        notes = [
            f"{self._stop_places[i]} has the id {i}, beyond the model's vocabulary of "
            f"{vocab_size:,}: no completion ends there"
            for i in beyond
        ]
        if beyond and len(beyond) == len(self._stop_places):
            notes.append(
                "the model has no end token: completions end at max_tokens, unless "
                "sampling.stop_token_ids or sampling.stop ends them"
            )
        return notes

    def check_chat(self) -> None:
        """Try the chat template. Raises ModelError if it drops the text of a user."""
        self._chat.check()

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
        """Render a prompt. Without a chat template: the contents, each followed by a blank line.

        Raises ModelError for an unusable template, ChatRefusedError for these messages alone.
        """
        return self._chat.render(messages)

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """Encode the prompt of these messages, up to the model's turn.

        A control token's text inside a message ("<|im_end|>", "<s>") is encoded as ordinary
        characters: only the template produces control tokens. For any other text, added tokens
        that control nothing included, the ids equal those of transformers' apply_chat_template.
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
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=special)
        except Exception as error:  # the library raises bare Exception for a text it cannot encode
            raise ModelError(
                f"{self._directory / TOKENIZER} cannot encode a text: {error}"
            ) from error
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


def load_tokenizer(directory: Path) -> Tokenizer | None:
    """Load the checkpoint's tokenizer; None if it has none (token-id prompts need none)."""
    return Tokenizer.from_dir(directory) if is_there(directory / TOKENIZER) else None


def _load_with_chat(directory: Path, settings: ChatSettings) -> Tokenizer:
    tokenizer = Tokenizer.from_dir(directory)
    return tokenizer if settings == ChatSettings() else tokenizer.with_chat(settings)
