"""Markdown of text and numbers: outside text is escaped, and intervals hold possible values only."""

import re
from collections.abc import Sequence
from urllib.parse import quote

import pandas
from tabulate import tabulate

from lrbench.core.escaping import for_markdown
from lrbench.stats.intervals import Estimate
from lrbench.stats.ratios import Ratio

NOTHING = "—"

SHARE = (0.0, 1.0)
"""Range of an accuracy or another share of images."""
CHANGE = (-1.0, 1.0)
"""Range of a difference of two shares."""

# Nothing can be escaped in a code span; other text is escaped outside of one.
_PLAIN = re.compile(r"[\w.:/@+,= -]+", re.ASCII)
_ESCAPED_SPAN = re.compile(r"\\`(.+?)\\`")


class Marked(str):
    """Markdown for a table's cell; other text is escaped."""


def table(rows: Sequence[dict[str, str]], form: str = "github") -> str:
    """Return a left-aligned table in Markdown or another of tabulate's formats.

    Args:
        rows: One dictionary for each row, all with the same keys. Text that is not `Marked` is escaped.
        form: tabulate's name of the format.
    """
    if not rows:
        return ""
    shown = [{_cell(name): _cell(value) for name, value in row.items()} for row in rows] if form == "github" else rows
    frame = pandas.DataFrame(list(shown))
    return str(tabulate(frame.to_dict("list"), headers="keys", tablefmt=form, disable_numparse=True))


def _cell(text: str) -> str:
    return text if isinstance(text, Marked) else for_markdown(text)


def code(text: str) -> Marked:
    """Return outside text as code, or as escaped text if a code span cannot hold it."""
    return Marked(f"`{text}`" if _PLAIN.fullmatch(text) else for_markdown(text))


def prose(text: str) -> str:
    r"""Return outside text whose names in backticks show as code; other markup is escaped.

    >>> prose("the arm `step` of a*b")
    'the arm `step` of a\\*b'
    """

    def restore(span: re.Match[str]) -> str:
        name = span[1].replace(r"\_", "_")
        return f"`{name}`" if _PLAIN.fullmatch(name) else span[0]

    return _ESCAPED_SPAN.sub(restore, for_markdown(text))


def link(text: str, path: str) -> Marked:
    """Return a link to a file of the leaderboard.

    Args:
        text: Outside text.
        path: Path of the file, relative to the page.
    """
    return Marked(f"[{for_markdown(text)}]({quote(path)})")


def bullets(lines: Sequence[str]) -> str:
    """Return a list of outside texts with names in backticks."""
    return "\n".join(f"- {prose(line)}" for line in lines)


def rounded(value: float, digits: int, *, signed: bool = False) -> str:
    """Return a number with a true minus sign, and without a sign if it rounds to zero."""
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def bracketed(low: float, high: float, scale: float = 100, digits: int = 1) -> str:
    """Return an interval by its ends: `[71.7, 98.9]`."""
    return f"[{rounded(scale * low, digits)}, {rounded(scale * high, digits)}]"


def with_interval(
    value: Estimate,
    possible: tuple[float, float] | None,
    *,
    scale: float = 100,
    digits: int = 1,
    signed: bool = False,
) -> Marked:
    """Return an estimate with its 95 % interval: `45.1 ± 2.3`, or `93.8 [81.6, 100.0]` if it is cut at a limit.

    Args:
        value: The estimate.
        possible: Smallest and largest possible value; None for no limits.
        scale: Factor by which the value is multiplied.
        digits: Number of decimals.
        signed: Whether a positive mean has a sign.
    """
    mean = rounded(scale * value.mean, digits, signed=signed)
    ends = value.clip(*(possible or (-float("inf"), float("inf"))))
    if ends is None or value.half_width is None:
        return Marked(mean)
    if ends == (value.low, value.high):
        return Marked(f"{mean} ± {scale * value.half_width:.{digits}f}")
    return Marked(f"{mean} {bracketed(*ends, scale, digits)}")


def points(value: Estimate | None, expected: int, *, signed: bool = False, bold: bool = False) -> Marked:
    """Return an estimate in percent or points, with the number of seeds if some are missing.

    Args:
        value: A share of images, or a difference of two shares if `signed`; None for no result.
        expected: Number of seeds of a complete estimate.
        signed: Whether the value is a difference.
        bold: Whether it is bold.
    """
    if value is None:
        return Marked(NOTHING)
    text = _with_seeds(with_interval(value, CHANGE if signed else SHARE, signed=signed), value, expected)
    return Marked(f"**{text}**") if bold else text


def number(value: Estimate | None, expected: int, digits: int) -> Marked:
    """Return an estimate without a unit, with the number of seeds if some are missing.

    Args:
        value: The estimate; None for no result.
        expected: Number of seeds of a complete estimate.
        digits: Number of decimals.
    """
    if value is None:
        return Marked(NOTHING)
    return _with_seeds(with_interval(value, None, scale=1, digits=digits), value, expected)


def _with_seeds(text: Marked, value: Estimate, expected: int) -> Marked:
    return Marked(f"{text} ({value.seeds} of {expected} seeds)") if value.seeds < expected else text


def ratio(value: Ratio | None) -> Marked:
    """Return a transferability T with its interval, or the reason why there is none."""
    if value is None:
        return Marked(NOTHING)
    if value.low is None or value.high is None:
        undefined = value.reason == "undefined"
        return Marked(value.reason if undefined else f"{rounded(value.value, 2)} ({value.reason}: no interval)")
    return Marked(f"{rounded(value.value, 2)} {bracketed(value.low, value.high, 1, 2)}")


def p_value(value: float | None) -> Marked:
    """Return a p with three decimals."""
    if value is None:
        return Marked(NOTHING)
    return Marked("<0.001" if value < 0.001 else f"{value:.3f}")


def verdict_text(verdict: str, margin: float) -> str:
    """Return a verdict in words.

    Args:
        verdict: A `Verdict`.
        margin: Margin of equivalence in points.
    """
    return {"mixed": "mixed: iterate noise", "equivalent": f"no difference beyond {margin:g} points"}.get(
        verdict, verdict
    )


def verdict_word(verdict: str, margin: float) -> Marked:
    """Return a verdict as it is printed: bold if it is decided."""
    text = verdict_text(verdict, margin)
    return Marked(text if verdict == "inconclusive" else f"**{text}**")
