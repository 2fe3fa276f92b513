"""A Jinja2 sandbox with limits on the work and the memory of a template.

Templates come with checkpoints and kind files. The sandbox counts loop iterations, calls and the
text that is produced, so the same template with the same values always ends alike; it checks CPU
time in between. The result of a single operation is bounded before it starts (`limits`), because
no signal and no thread could interrupt it.
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

MAX_STEPS = 2_000_000  # loop iterations and calls per text
MAX_CPU_S = 5.0  # CPU time of this thread, so that a busy machine changes nothing
_STEP_CHARS = 256  # characters of new text per step
_KEPT_CHARS = 4096  # characters of referenced text per step
_CHECK_EVERY = 256  # steps
_TEXT, _CONTAINERS = (str, bytes), (list, tuple, dict)
_SUM_PARTS = 16  # additions in `a + b + c` checked as one


class _Generator(CodeGenerator):
    """Compiles loops, literals, slices and concatenations into calls of the environment."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._iterated: set[int] = set()  # ids of nodes
        self._sums: dict[int, int] = {}  # index of an addition in `a + b + c`, by node id

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
        """Return the method that checks the node's value; "" if none is needed."""
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
    """The budget left for the current text."""

    steps: int = MAX_STEPS
    until: float | None = None  # CPU time of this thread; None until the first check


class _Local(threading.local):
    def __init__(self) -> None:
        self.spent = _Spent()


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """A sandbox that raises SecurityError beyond its limits. Call `begin` before each text."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"*", "%", "**"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._local = _Local()
        # Random text would change a request from run to run.
        del self.filters["random"]
        del self.globals["lipsum"]
        for name, function in self.filters.items():
            self.filters[name] = bounds.bounded_filter(name, function, self.made)

    def begin(self) -> None:
        """Start a new text with a full budget."""
        spent = self._local.spent
        spent.steps, spent.until = MAX_STEPS, None

    def spend(self, num: int = 1) -> None:
        """Count steps. Raises SecurityError once the steps or the CPU time are used up."""
        spent = self._local.spent
        before = spent.steps
        spent.steps = left = before - num
        if before // _CHECK_EVERY != left // _CHECK_EVERY:
            _check_budget(spent)

    def counted(self, values: Iterable[Any]) -> Iterable[Any]:
        """Return the values of a loop, each counted as a step."""
        if type(values) is list and len(values) < _CHECK_EVERY:  # most loops, at no cost
            self.spend(len(values))
            return values
        return self._counted(values)

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        spent = self._local.spent
        for value in values:
            spent.steps -= 1
            if not spent.steps % _CHECK_EVERY:
                _check_budget(spent)
            yield value

    def made(self, value: Any) -> Any:
        """Check and count a value that the template produced."""
        if isinstance(value, _TEXT):
            size = len(value)
            if size >= _STEP_CHARS:
                bounds.check_size(size)
                self.spend(size // _STEP_CHARS)
        elif isinstance(value, _CONTAINERS):
            num, chars = bounds.count_content(value)
            self.spend(num + chars // _KEPT_CHARS)
        return value

    def text_of(self, value: Any) -> str:
        """Return the text of a value that `~`, `join` or `string` makes part of a text."""
        return bounds.text_of(value)

    def joined(self, join: Callable[[list[str]], str], parts: Iterable[Any]) -> str:
        """Concatenate as `a ~ b` does."""
        texts = [self.text_of(part) for part in parts]
        bounds.check_size(sum(map(len, texts)))
        text: str = self.made(join(texts))
        return text

    def concat(self, parts: Iterable[str]) -> str:
        """Join the output of a macro, a block or the template."""
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
        """Call a macro, a method or a global function."""
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
        """Apply a filter by name, as `map` does for each value."""
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
        """Wrap `str.format`, which jinja2 sandboxes at attribute lookup."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def format_text(*args: Any, **kwargs: Any) -> str:
            bounds.check_format(value.__self__, args, kwargs)
            return wrapped(*args, **kwargs)

        return format_text


def _check_budget(spent: _Spent) -> None:
    if spent.steps <= 0:
        raise SecurityError(f"it takes more than {MAX_STEPS:,} steps")
    now = time.thread_time()
    if spent.until is None:
        spent.until = now + MAX_CPU_S
    elif now > spent.until:
        raise SecurityError(f"it takes more than {MAX_CPU_S:g} s")
