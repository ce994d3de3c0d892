"""The guidelines on the page."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import httpx
import pytest

from engine.annotation.guidelines import html_of
from tests.annotation.site import Site, served

HOSTILE = """\
# Title <script>alert(1)</script>

<img src=x onerror=alert(1)>

- [a](javascript:alert(1)) [b](JaVaScRiPt&#58;alert(1)) [c](data:text/html;base64,PHNjcmlwdD4=)
- [d](vbscript:x) [e](file:///etc/passwd) <javascript:alert(1)>
- [f](https://example.org/" onclick="alert(1)) [g](https://example.org 'x" onmouseover="alert(1)')
- ![h](https://example.org/track.png) `<b onclick=alert(1)>`

<div
onclick="alert(1)">text</div>
"""


class Elements(HTMLParser):
    """The elements of some HTML, with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_no_markup_of_the_markdown_becomes_markup_of_the_page() -> None:
    elements = Elements(html_of(HOSTILE)).found
    assert {tag for tag, _ in elements} <= {"h3", "p", "ul", "li", "a", "code"}
    allowed = {"href", "title", "target", "rel"}
    for tag, attributes in elements:
        assert set(attributes) <= (allowed if tag == "a" else set())


def test_links_lead_to_the_web_only_and_tell_nothing_of_this_page() -> None:
    links = [attributes for tag, attributes in Elements(html_of(HOSTILE)).found if tag == "a"]
    assert links
    for link in links:
        assert str(link["href"]).startswith("https://example.org")
        assert (link["target"], link["rel"]) == ("_blank", "noopener noreferrer")


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("# How\n\n## to", "<h3>How</h3>\n<h3>to</h3>\n"),
        ("**Do** *it* `now`", "<p><strong>Do</strong> <em>it</em> <code>now</code></p>\n"),
        ("1. one\n2. two\n   - deep", None),
        ("```\na < b\n```", "<pre><code>a &lt; b\n</code></pre>\n"),
        ("", ""),
    ],
)
def test_headings_lists_code_and_emphasis_are_kept(markdown: str, html: str | None) -> None:
    rendered = html_of(markdown)
    if html is None:
        assert [tag for tag, _ in Elements(rendered).found] == ["ol", "li", "li", "ul", "li"]
    else:
        assert rendered == html


@pytest.fixture
def url(site: Site) -> Iterator[str]:
    (site.workspace.settings.root / "guidelines.md").write_text("# Ours\n\n<b>one</b> rule\n")
    with served(site.workspace, local=True) as address:
        yield address


def test_the_workspaces_own_guidelines_are_served_as_text_and_as_html(url: str) -> None:
    served_now = httpx.get(f"{url}/api/guidelines").json()
    assert served_now["markdown"].startswith("# Ours")
    assert served_now["html"] == "<h3>Ours</h3>\n<p>&lt;b&gt;one&lt;/b&gt; rule</p>\n"
