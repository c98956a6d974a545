"""Escaping of foreign text for terminals and Markdown."""

import html
import re
from functools import lru_cache

# Control characters (C0 and C1) and invisible marks that reorder or join text.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_MARKUP = re.compile(r"([\\`*_\[\]|])")


def for_terminal(text: str) -> str:
    r"""Escape control characters and bidirectional marks. Line ends and tabs stay.

    >>> for_terminal("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


# Pages of many results repeat few texts.
@lru_cache(maxsize=1 << 14)
def for_markdown(text: str) -> str:
    r"""Escape Markdown and HTML, so that text shows literally, also within a table cell.

    >>> for_markdown("a|b <img>")
    'a\\|b &lt;img&gt;'
    """
    one_line = " ".join(for_terminal(text).split())
    return _MARKUP.sub(r"\\\1", html.escape(one_line, quote=False))
