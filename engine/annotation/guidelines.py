"""The annotation guidelines: the operator's Markdown as HTML that is safe to show."""

from __future__ import annotations

from markdown_it import MarkdownIt

NO_IMAGES = ["image"]
"""Disabled rules: the page's security policy blocks images from other sites."""


def html_of(markdown: str) -> str:
    """Render CommonMark as HTML. Raw HTML and links to scripts and files stay text.

    All headings become h3: the title of the dialog that shows them is an h2.
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
