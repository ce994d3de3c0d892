"""The guidelines on the page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import httpx
import numpy as np
import pytest

from engine.annotation.client import Client
from engine.annotation.guidelines import html_of
from storage.formats.images import read_image, write_png
from storage.sweep import sweep
from tests.annotation.site import Site, served
from tests.annotation.test_team import refusal

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
def own_url(site: Site) -> Iterator[str]:
    (site.workspace.settings.root / "guidelines.md").write_text("# Ours\n\n<b>one</b> rule\n")
    with served(site.workspace, local=True) as address:
        yield address


def test_the_workspaces_own_guidelines_are_served_as_text_and_as_html(
    own_url: str,
) -> None:
    served_now = httpx.get(f"{own_url}/api/guidelines").json()
    assert served_now["markdown"].startswith("# Ours")
    assert served_now["html"] == "<h3>Ours</h3>\n<p>&lt;b&gt;one&lt;/b&gt; rule</p>\n"


# of a dataset, with pictures


def photo(side: int = 40, seed: int = 0) -> bytes:
    """A PNG of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return write_png(noise)


def test_a_dataset_has_its_own_guidelines_with_history(
    site: Site, url: str, adam: Client, ada: Client, rita: Client
) -> None:
    usual = ada.guidelines.get("d")
    assert (usual.version, usual.author) == (0, None)
    first = adam.guidelines.set("d", "# Cells\n\n<b>one</b>", expected_version=0)
    assert "&lt;b&gt;one" in first.html
    adam.guidelines.set("d", "# Cells, again", expected_version=1)
    now = ada.guidelines.get("d")
    assert (now.html, now.version, now.author) == ("<h3>Cells, again</h3>\n", 2, "adam")
    told = refusal(lambda: adam.guidelines.set("d", "late", expected_version=1))
    assert (told.status, told.error) == (409, "outdated")
    assert [(v.version, v.author) for v in rita.guidelines.history("d")] == [
        (2, "adam"),
        (1, "adam"),
    ]
    assert refusal(lambda: ada.guidelines.set("d", "mine", expected_version=2)).error == "role"
    assert refusal(lambda: ada.guidelines.history("d")).error == "role"
    assert refusal(lambda: ada.guidelines.get("nowhere")).status == 404
    assert adam.team.audit()[0].detail == {"version": 2}


def test_a_picture_is_decoded_stored_anew_and_shown_to_those_who_see_the_dataset(
    site: Site, url: str, adam: Client, ada: Client
) -> None:
    original = photo(1700)
    made = adam.guidelines.add_picture("d", "C:\\x\\Good <edge>.PNG", original)
    assert made.name.startswith("good-edge-")
    text = f"![an edge]({made.name}) ![none](other.png) ![far](https://example.org/x.png)"
    view = adam.guidelines.set("d", text, expected_version=0)
    images = [attributes for tag, attributes in Elements(view.html).found if tag == "img"]
    assert [(one["src"], one["alt"]) for one in images] == [(made.address, "an edge")]
    assert "[none: there is no picture other.png]" in view.html
    stored = ada.guidelines.picture("d", made.name)
    assert stored != original
    assert read_image(stored).shape == (1600, 1600, 3)
    assert adam.guidelines.add_picture("d", "Good <edge>.png", original) == made
    assert adam.guidelines.pictures("d") == [made]
    site.workspace.catalog.datasets.get_or_create("other")
    assert refusal(lambda: ada.guidelines.picture("other", made.name)).status == 404
    (found,) = [one for one in adam.team.view().people if one.name == "ada"]
    adam.team.set_rights(found.id, "annotator", [])
    assert refusal(lambda: ada.guidelines.picture("d", made.name)).status == 404


@pytest.mark.parametrize(
    "data", [b"", b"<svg onload='alert(1)'/>", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"x" * 99]
)
def test_what_is_no_picture_is_refused(adam: Client, data: bytes) -> None:
    assert refusal(lambda: adam.guidelines.add_picture("d", "x.png", data)).status == 422
    assert adam.guidelines.pictures("d") == []


def test_a_picture_that_no_guidelines_have_is_swept(site: Site, adam: Client) -> None:
    objects = site.workspace.objects
    made = adam.guidelines.add_picture("d", "x", photo())
    objects.put("guidelines/1/orphan.png", b"left by a killed upload")
    later = datetime.now(UTC) + timedelta(days=1)
    sweep(site.workspace.catalog, objects, older_than=timedelta(0), delete=True, now=later)
    assert [info.key for info in objects.list("guidelines/")] == [
        f"guidelines/{site.dataset_id}/{made.name}"
    ]
