"""lrbench: does learning-rate decay make features less transferable?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrbench.leaderboard.frames import load_predictions, load_results

__version__ = "0.1.0"
__all__ = ["__version__", "load_predictions", "load_results"]


def __getattr__(name: str) -> Any:
    # Importing lrbench stays light: pandas is imported with the first use.
    if name in ("load_predictions", "load_results"):
        from lrbench.leaderboard import frames

        return getattr(frames, name)
    raise AttributeError(f"module 'lrbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
