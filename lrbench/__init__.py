"""lrbench: does learning-rate decay make features less transferable?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrbench.leaderboard.frames import load_results

__version__ = "0.1.0"
__all__ = ["__version__", "load_results"]


def __getattr__(name: str) -> Any:
    # Importing lrbench stays light: pandas comes with the first use.
    if name == "load_results":
        from lrbench.leaderboard.frames import load_results

        return load_results
    raise AttributeError(f"module 'lrbench' has no attribute {name!r}")
