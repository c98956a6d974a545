"""A page as one structure, which is rendered as Markdown and as HTML in one file that needs no network."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrbench.core.escaping import for_markdown, for_terminal
from lrbench.leaderboard.figures import Figure
from lrbench.leaderboard.markup import bullets, table
from lrbench.leaderboard.webpage import style_sheet

# In addition to the style sheet of all pages: text in tables starts at the left, and drawings have a white ground.
_STYLE = ".text { text-align: left; } figure img { max-width: 100%; height: auto; background: #fff; }"
_THEME = 'if (matchMedia("(prefers-color-scheme: dark)").matches) document.documentElement.dataset.theme = "dark";'


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a page. All texts are plain; they are escaped when they are rendered.

    Attributes:
        heading: Its heading.
        rows: Rows of a table, each with the same columns.
        figures: Figures, after the table.
        paragraphs: Paragraphs, after the figures.
        items: Items of a list, at the end.
    """

    heading: str
    rows: Sequence[Mapping[str, str]] = ()
    figures: Sequence[Figure] = ()
    paragraphs: Sequence[str] = ()
    items: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Document:
    """A page.

    Attributes:
        title: Its title.
        answer: The answer, in one sentence.
        paragraphs: Paragraphs below the answer.
        sections: Its sections.
    """

    title: str
    answer: str
    paragraphs: Sequence[str] = ()
    sections: Sequence[Section] = ()

    @property
    def figures(self) -> list[Figure]:
        """The figures of all sections."""
        return [figure for section in self.sections for figure in section.figures]


def render_markdown(document: Document, name: str) -> str:
    """Return a page in Markdown.

    Args:
        document: The page.
        name: Start of the names of its figures' files, which are in the folder `figures`.
    """
    parts = [f"# {for_markdown(document.title)}", f"**{for_markdown(document.answer)}**"]
    parts += [for_markdown(text) for text in document.paragraphs]
    for section in document.sections:
        parts.append(f"## {for_markdown(section.heading)}")
        if section.rows:
            parts.append(table([dict(row) for row in section.rows]))
        parts += [figure.markdown(name) for figure in section.figures]
        parts += [for_markdown(text) for text in section.paragraphs]
        if section.items:
            parts.append(bullets(section.items))
    return "\n\n".join(parts) + "\n"


def render_html(document: Document, drawings: Mapping[str, bytes]) -> str:
    """Return a page in HTML.

    Args:
        document: The page.
        drawings: SVG of each figure by the figure's name.
    """
    body = [f'<p id="answer">{_escaped(document.answer)}</p>', *map(_paragraph, document.paragraphs)]
    for section in document.sections:
        body.append(f"<h2>{_escaped(section.heading)}</h2>")
        if section.rows:
            body.append(_table(section.rows))
        body += [_figure(figure, drawings[figure.name]) for figure in section.figures]
        body += map(_paragraph, section.paragraphs)
        if section.items:
            body.append("<ul>" + "".join(f"<li>{_escaped(item)}</li>" for item in section.items) + "</ul>")
    title = _escaped(document.title)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{title}</title>\n<link rel="icon" href="data:,">',
            f"<style>\n{style_sheet()}{_STYLE}\n</style>\n<script>{_THEME}</script>\n</head>\n<body>",
            f"<header><h1>{title}</h1></header>\n<main>",
            *body,
            "</main>\n</body>\n</html>\n",
        ]
    )


def _escaped(text: str) -> str:
    return html.escape(for_terminal(text))


def _paragraph(text: str) -> str:
    return f"<p>{_escaped(text)}</p>"


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    classes = {
        name: "" if all(not row[name] or row[name][0] in "0123456789+-−" for row in rows) else ' class="text"'
        for name in rows[0]
    }
    head = "".join(f'<th scope="col"{classes[name]}>{_escaped(name)}</th>' for name in rows[0])
    lines = [
        "<tr>" + "".join(f"<td{classes[name]}>{_escaped(cell)}</td>" for name, cell in row.items()) + "</tr>"
        for row in rows
    ]
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def _figure(figure: Figure, drawing: bytes) -> str:
    # As an image, so that the identifiers inside two drawings cannot clash.
    source = f"data:image/svg+xml;base64,{base64.b64encode(drawing).decode()}"
    return (
        f'<figure><img src="{source}" alt="{_escaped(figure.title)}">'
        f'<figcaption class="soft">{_escaped(figure.caption)}</figcaption></figure>'
    )
