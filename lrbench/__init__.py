"""lrbench: does learning-rate decay make features less transferable?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrbench.api import Model, evaluate, pretrain, recommend, run
    from lrbench.config import load_suite, load_task
    from lrbench.leaderboard.frames import load_predictions, load_results

__version__ = "0.1.0"
__all__ = [
    "Model", "__version__", "evaluate", "load_predictions", "load_results", "load_suite", "load_task", "pretrain", "recommend",
    "run",
]  # fmt: skip

_HOMES = {
    **dict.fromkeys(("load_predictions", "load_results"), "lrbench.leaderboard.frames"),
    **dict.fromkeys(("load_suite", "load_task"), "lrbench.config"),
    **dict.fromkeys(("Model", "evaluate", "pretrain", "recommend", "run"), "lrbench.api"),
}


def __getattr__(name: str) -> Any:
    # Importing lrbench stays light: torch and pandas are imported with the first use.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lrbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
