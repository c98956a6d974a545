"""Memoised functions whose arguments include a `Control`, which is no part of the key."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, ParamSpec, TypeVar

from lrbench.core.control import Control

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Memoised(Generic[Parameters, Result]):
    """A function that remembers its latest results by all arguments except `Control`.

    Args:
        function: Takes hashable arguments and, anywhere among them, a `Control`.
        size: Number of results remembered.
    """

    def __init__(self, function: Callable[Parameters, Result], size: int) -> None:
        self._function, self._size = function, size
        self._results: OrderedDict[Hashable, Result] = OrderedDict()

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        """Return the remembered result for these arguments, or compute it."""
        key = tuple(value for value in (*args, *kwargs.values()) if not isinstance(value, Control))
        if key not in self._results:
            # Evict before computing: two data sets need not be in memory at once.
            while len(self._results) >= self._size:
                self._results.popitem(last=False)
            self._results[key] = self._function(*args, **kwargs)
        self._results.move_to_end(key)
        return self._results[key]

    def cache_clear(self) -> None:
        """Forget all results."""
        self._results.clear()


def memoised(size: int) -> Callable[[Callable[Parameters, Result]], Memoised[Parameters, Result]]:
    """Decorate a function so that its latest `size` results are remembered, whatever `Control` is passed."""
    return lambda function: Memoised(function, size)
