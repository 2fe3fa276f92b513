"""Jinja2's sandbox, and a bound on the work and the memory that a template may take.

Templates come with checkpoints and kind files. Rounds of loops, calls and the text that is made
are counted, so that the same template with the same values always ends the same way; the time that
single operations take is looked at in between. What one operation may make is known before it is
begun (see `sandbox_bounds`): no signal and no other thread is needed, and none could interrupt it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from thothy_batch.templating import limits as bounds

MAX_STEPS = 2_000_000  # rounds of loops and calls for one text
MAX_CPU_S = 5.0  # of this thread: how busy the machine is does not matter
_STEP_CHARS = 256  # text that is made counts as a step for so much of it
_KEPT_CHARS = 4096  # text that is only referred to
_LOOK_EVERY = 256  # steps
_TEXT, _CONTAINERS = (str, bytes), (list, tuple, dict)
_SUM_PARTS = 16  # of `a + b + c` that are looked at as one


class _Generator(CodeGenerator):
    """Compiles loops, literals, slices and joined texts so that they pass by the environment."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._iterated: set[int] = set()  # nodes
        self._sums: dict[int, int] = {}  # where an addition stands in `a + b + c`

    def visit(self, node: nodes.Node, *args: Any, **options: Any) -> Any:
        if isinstance(node, nodes.For):
            self._iterated.add(id(node.iter))
        method = "counted" if id(node) in self._iterated else self._method_for(node)
        self._iterated.discard(id(node))
        if isinstance(node, nodes.Concat):
            return self._write_joined(node, args[0])
        if method:
            self.write(f"environment.{method}(")
        result = super().visit(node, *args, **options)
        if method:
            self.write(")")
        return result

    def _method_for(self, node: nodes.Node) -> str:
        """The method that takes the node's value; "" where it needs no look."""
        if isinstance(node, nodes.Add):
            place = self._sums.pop(id(node), 0)
            self._sums[id(node.left)] = (place + 1) % _SUM_PARTS
            return "" if place else "made"
        if isinstance(node, nodes.Getitem):
            return "made" if isinstance(node.arg, nodes.Slice) else ""
        if isinstance(node, nodes.Tuple):
            return "made" if node.ctx == "load" else ""
        return "made" if isinstance(node, nodes.List | nodes.Dict) else ""

    def _write_joined(self, node: nodes.Concat, frame: Frame) -> None:
        join = "markup_join" if frame.eval_ctx.autoescape else "str_join"
        if frame.eval_ctx.volatile:
            join = "(markup_join if context.eval_ctx.autoescape else str_join)"
        self.write(f"environment.joined({join}, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


@dataclass(slots=True)
class _Spent:
    """What the text under way may still take."""

    steps: int = MAX_STEPS
    until: float | None = None  # of this thread's time; None: not looked at yet


class _Local(threading.local):
    def __init__(self) -> None:
        self.spent = _Spent()


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """`begin` before each text. What goes beyond a bound raises SecurityError."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"*", "%", "**"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._local = _Local()
        # Random text would make one request differ from night to night.
        del self.filters["random"]
        del self.globals["lipsum"]
        for name, function in self.filters.items():
            self.filters[name] = bounds.bounded_filter(name, function, self.made)

    def begin(self) -> None:
        """A new text: nothing is spent yet."""
        spent = self._local.spent
        spent.steps, spent.until = MAX_STEPS, None

    def spend(self, num: int = 1) -> None:
        """Counts steps. Raises SecurityError where they, or time, are used up."""
        spent = self._local.spent
        before = spent.steps
        spent.steps = left = before - num
        if before // _LOOK_EVERY != left // _LOOK_EVERY:
            _look(spent)

    def counted(self, values: Iterable[Any]) -> Iterable[Any]:
        """The values of a loop, each a step."""
        if type(values) is list and len(values) < _LOOK_EVERY:  # most loops: at no cost
            self.spend(len(values))
            return values
        return self._counted(values)

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        spent = self._local.spent
        for value in values:
            spent.steps -= 1
            if not spent.steps % _LOOK_EVERY:
                _look(spent)
            yield value

    def made(self, value: Any) -> Any:
        """A value that the template made: not too large, and counted."""
        if isinstance(value, _TEXT):
            size = len(value)
            if size >= _STEP_CHARS:
                bounds.check_size(size)
                self.spend(size // _STEP_CHARS)
        elif isinstance(value, _CONTAINERS):
            num, chars = bounds.weigh(value)
            self.spend(num + chars // _KEPT_CHARS)
        return value

    def joined(self, join: Callable[[list[str]], str], parts: Iterable[Any]) -> str:
        """`a ~ b`."""
        texts = [bounds.text_of(part) for part in parts]
        bounds.check_size(sum(map(len, texts)))
        text: str = self.made(join(texts))
        return text

    def concat(self, parts: Iterable[str]) -> str:
        """What a macro, a block or the whole template wrote."""
        texts, size, limit = [], 0, bounds.MAX_RENDERED_CHARS
        for text in parts:
            texts.append(text)
            size += len(text)
            if size > limit:
                bounds.check_size(size)
        text = "".join(texts)
        if size >= _STEP_CHARS:
            self.spend(size // _STEP_CHARS)
        return text

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Calls a macro, a method or a global function."""
        __self.spend()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str | bytes):
            args = bounds.checked_arguments(owner, __obj.__name__, args, kwargs)
        elif isinstance(__obj, LoopContext) and args:  # a recursive loop's next level
            args = (__self.counted(args[0]), *args[1:])
        elif getattr(__obj, "catch_varargs", False) or getattr(__obj, "catch_kwargs", False):
            __self.made([*args, *kwargs.values()])
        return __self.made(super().call(__context, __obj, *args, **kwargs))

    def call_filter(self, *args: Any, **options: Any) -> Any:
        """A filter by its name, as `map` calls it for each of many values."""
        self.spend()
        return super().call_filter(*args, **options)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        bounds.check_operands(operator, left, right)
        return self.made(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | bytes | int) and attr in bounds.UNBOUNDED_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format`, which jinja2 puts in a sandbox of its own where it is looked up."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def format_text(*args: Any, **kwargs: Any) -> str:
            bounds.check_format(value.__self__, args, kwargs)
            return wrapped(*args, **kwargs)

        return format_text


def _look(spent: _Spent) -> None:
    if spent.steps <= 0:
        raise SecurityError(f"it takes more than {MAX_STEPS:,} steps")
    now = time.thread_time()
    if spent.until is None:
        spent.until = now + MAX_CPU_S
    elif now > spent.until:
        raise SecurityError(f"it takes more than {MAX_CPU_S:g} s")
