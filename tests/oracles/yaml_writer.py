"""Writes values as YAML 1.2 in random styles, by the productions of its specification."""

import json
import random
import re
from typing import Any

_PLAIN = re.compile(r"(?!(null|true|false)$)[a-zé😀\x85\u2028][a-z0-9é😀\x85\u2028\xa0'!?&*%@|>-]*")
_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\x85\xa0-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


class YamlWriter:
    """One seed writes one value always alike."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def document(self, value: Any) -> str:
        head = self._choose("", "---", "%YAML 1.2\n---", "\ufeff---", "# note\n\n---")
        if head:
            return head + self._after_indicator(value, -1) + self._choose("", "...\n", "# end")
        if value and isinstance(value, dict | list):
            return self._lines(value, 0)
        return self._flow(value, 1) + "\n"

    def _choose(self, *options: Any) -> Any:
        return self._random.choice(options)

    def _after_indicator(self, value: Any, indent: int, *, may_share: bool = False) -> str:
        """Write what follows an indicator. `may_share`: a list may stand at `indent` itself."""
        if value and isinstance(value, dict | list) and self._choose(True, False):
            least = 0 if may_share and isinstance(value, list) else 1
            column = indent + self._random.randint(least, 4)
            return self._line_end() + self._lines(value, max(column, 0))
        if isinstance(value, str) and self._choose(True, False):
            block = self._block_text(value, indent)
            if block:
                return block
        lead = self._choose(" ", "  ", "\t", self._line_end() + " " * (indent + 1) + " ")
        return lead + self._flow(value, indent + 1) + self._line_end()

    def _line_end(self) -> str:
        return self._choose("\n", "\n", " \n", "\t# note: 'x\n", "\n\n", "\n \t\n# note\n")

    def _lines(self, value: Any, column: int) -> str:
        """Write a block collection whose entries begin at `column`."""
        pad = " " * column
        if isinstance(value, dict):
            return "".join(pad + self._pair(key, each, column) for key, each in value.items())
        return "".join(pad + "-" + self._entry(each, column) for each in value)

    def _entry(self, value: Any, column: int) -> str:
        if value and isinstance(value, dict | list) and self._choose(True, False):
            gap = self._random.randint(1, 3)
            own = column + 1 + gap
            return " " * gap + self._lines(value, own)[own:]
        return self._after_indicator(value, column)

    def _pair(self, key: str, value: Any, column: int) -> str:
        if self._choose(True, False, False):
            colon = " " * column + ":" + self._after_indicator(value, column, may_share=True)
            return "?" + self._after_indicator(key, column) + colon
        colon = self._choose("", " ", "\t") + ":"
        return self._word(key) + colon + self._after_indicator(value, column, may_share=True)

    def _block_text(self, text: str, indent: int) -> str:
        """Write a literal text; empty where its characters do not allow it."""
        if not text or _UNPRINTABLE.search(text):
            return ""
        body = text.rstrip("\n")
        num_breaks = len(text) - len(body)
        chomp = "+" if num_breaks > 1 or not body else "" if num_breaks else "-"
        step = self._random.randint(1, 4)
        is_clear = body[:1] not in ("", " ", "\t", "\n") and self._choose(True, False)
        header = f"|{chomp}" if is_clear else self._choose(f"|{step}{chomp}", f"|{chomp}{step}")
        pad = " " * (max(indent, 0) + step)
        lines = [pad + line if line else "" for line in body.split("\n")] if body else []
        lines += [""] * (num_breaks - (1 if body else 0))
        return f" {header}{self._choose('', ' # note')}\n" + "".join(f"{line}\n" for line in lines)

    def _flow(self, value: Any, indent: int) -> str:
        """Write a value in brackets, quotes or plainly; further lines have `indent` spaces."""
        if isinstance(value, str):
            return self._text(value, indent)
        if not isinstance(value, dict | list):
            return self._number(value)
        if isinstance(value, dict):
            items = [self._item(pair, indent) for pair in value.items()]
        else:
            items = [self._flow(each, indent) + self._space(indent) for each in value]
        text = "".join(f"{self._space(indent)}{item}," for item in items)
        if self._choose(True, False):
            text = text.removesuffix(",")
        return f"{{{text}}}" if isinstance(value, dict) else f"[{text}]"

    def _item(self, pair: tuple[str, Any], indent: int) -> str:
        key = self._text(pair[0], indent)
        colon = ":" if key[-1] in "\"'" and key[0] == key[-1] else f"{self._space(indent)}: "
        return (
            f"{key}{colon}{self._space(indent)}{self._flow(pair[1], indent)}{self._space(indent)}"
        )

    def _space(self, indent: int) -> str:
        pad = " " * indent
        return self._choose("", "", " ", "\t", f"\n{pad}", f" # note]\n{pad}\t", f"\n\n{pad} ")

    def _number(self, value: Any) -> str:
        if value is None:
            return self._choose("null", "~", "Null", "NULL", "!!null null")
        if isinstance(value, bool):
            return self._choose(str(value), str(value).lower(), str(value).upper())
        if isinstance(value, float):
            text = repr(value).replace("inf", ".inf")
            return self._choose(text, text, f"!!float '{text}'")
        forms = (hex(value), f"0o{value:o}") if value >= 0 else ()
        return self._choose(str(value), f"!!int {value}", *forms)

    def _text(self, text: str, indent: int) -> str:
        """Write a text that may run over several lines."""
        pad = "\n" + " " * max(indent, 1)
        word = self._word(text)
        # Escapes hold no space: each space of the style is one of the text.
        if re.fullmatch(r"\S+( \S+)+", text) and self._choose(True, False):
            return word.replace(" ", pad)
        return word

    def _word(self, text: str) -> str:
        """Write a text on one line."""
        styles = [json.dumps(text), json.dumps(text, ensure_ascii=False)]
        if not re.search("[\x00-\x1f]", text.replace("\t", "")):
            styles.append("'" + text.replace("'", "''") + "'")
        if all(_PLAIN.fullmatch(word) for word in text.split(" ")):
            styles.append(text)
        return self._choose(*styles)
