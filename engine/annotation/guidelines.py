"""The guidelines: Markdown of whoever runs the server, as HTML that a page can show as it is."""

from __future__ import annotations

from markdown_it import MarkdownIt

NO_IMAGES = ["image"]
"""The page's security policy lets none in from elsewhere."""


def html_of(markdown: str) -> str:
    """CommonMark as HTML. HTML in it stays text, and so do links to scripts and files.

    All headings become h3: the title of the dialog they are shown in is the page's h2.
    """
    parser = MarkdownIt("commonmark", {"html": False}).disable(NO_IMAGES)
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "h3"
        for child in token.children or []:
            if child.type == "link_open":
                child.attrs |= {"target": "_blank", "rel": "noopener noreferrer"}
    rendered: str = parser.renderer.render(tokens, parser.options, {})
    return rendered
