"""The report is one self-contained HTML file, and external text is escaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser

import numpy as np
import pytest

from flows.release.report_html import Picture, Report, RoundRow, render_report, stage_name

HOSTILE = (
    "\"><script>alert(1)</script><img src=x onerror='a()'>&$x_$ \N{RIGHT-TO-LEFT OVERRIDE}.jpg"
)
VOID = {"meta", "img", "br"}


def row(stage: str = "assisted_manual", **values: object) -> RoundRow:
    known: dict[str, object] = {
        "stage": stage,
        "round": 1,
        "images": 1234,
        "masks": 56789,
        "masks_per_image": 46.02,
        "clicks_per_mask": 2.5,
        "seconds_per_mask": 7.25,
        "model": "lite",
        "miou_1_click": 0.6123,
        "miou_3_clicks": 0.7,
    }
    return RoundRow(**(known | values))  # type: ignore[arg-type]


def picture(title: str = "a.jpg", caption: str = "", *, before: bool = True) -> Picture:
    image = np.full((40, 60, 3), 90, np.uint8)
    return Picture(
        title=title, caption=caption, before_HWC=image if before else None, image_HWC=image
    )


def report(**values: object) -> Report:
    known: dict[str, object] = {
        "title": "Nuclei",
        "subtitle": "Three stages",
        "rounds": [row(), row("fully_automatic", clicks_per_mask=None, seconds_per_mask=None)],
        "pictures": [picture()],
        "facts": [("Images", "393")],
        "created_at": datetime(2026, 11, 3, 9, 5, tzinfo=UTC),
        "notes": ["A note"],
    }
    return Report(**(known | values))  # type: ignore[arg-type]


class Page(HTMLParser):
    """Every element with its attributes, the text, and whether tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value for _, found in self.elements if (value := found.get(name)) is not None]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements if name == tag]


def cells(html: str) -> list[str]:
    return re.findall(r"<td[^>]*>(.*?)</td>", html)


def svgs(html: str) -> list[str]:
    return re.findall(r'role="img" aria-label="[^"]*">(<svg.*?</svg>)', html, re.DOTALL)


def test_nothing_is_loaded_and_nothing_runs() -> None:
    html = render_report(report())
    page = Page(html)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "foreignobject"}
    assert "//" not in re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", html)
    assert all(src.startswith("data:image/jpeg;base64,") for src in page.attributes("src"))
    assert all(link.startswith("#") for link in page.attributes("xlink:href"))
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_names_from_outside_stay_text_everywhere() -> None:
    hostile = report(
        title=HOSTILE,
        subtitle=HOSTILE,
        rounds=[row(HOSTILE, model=HOSTILE)],
        pictures=[picture(HOSTILE, HOSTILE), picture("b"), picture(HOSTILE), picture(HOSTILE)],
        facts=[(HOSTILE, HOSTILE)],
        notes=[HOSTILE],
    )
    page = Page(render_report(hostile))
    assert not page.all("script")
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") == 11  # also in <title>
    assert f"{HOSTILE}, its masks drawn over it" in page.attributes("alt")


def test_names_that_are_no_unicode_do_not_stop_the_report() -> None:
    name = b"caf\xe9\x00.jpg".decode("utf-8", "surrogateescape")
    html = render_report(report(pictures=[picture(name)], rounds=[row("\x00$é\udcff")]))
    assert "caf?" in html
    html.encode("utf-8")


def test_a_missing_value_prints_as_an_en_dash() -> None:
    found = cells(render_report(report()))
    assert found[:5] == ["1,234", "56,789", "46.0", "2.50", "7.2"]
    assert found[6:8] == ["0.612", "0.700"]
    assert found[11:13] == ["–", "–"]
    infinite = cells(render_report(report(rounds=[row(miou_1_click=float("inf"))])))
    assert infinite[6] == "–"


def test_the_four_charts_are_inline_svg_in_the_colours_of_the_page() -> None:
    html = render_report(report())
    charts = svgs(html)
    assert len(charts) == 4
    for chart in charts:
        ET.fromstring(chart.replace("<svg", '<svg xmlns:xlink="x"', 1))  # noqa: S314 - our own
        assert "<style" not in chart, "a style there would apply to the whole page"
        assert not re.search(r"#[0-9a-f]{6}", chart)
    assert "var(--second)" in charts[3]
    assert "Held-out mIoU over 2 rounds. 1 click: 0.612, 0.612; 3 clicks: 0.700, 0.700" in html


def test_ids_are_unique_and_references_lead_somewhere() -> None:
    rounds = [row(round=n, clicks_per_mask=4.0, seconds_per_mask=4.0) for n in range(3)]
    page = Page(render_report(report(rounds=rounds)))
    ids = Counter(page.attributes("id"))
    assert max(ids.values()) == 1
    links = page.attributes("xlink:href") + page.attributes("aria-labelledby")
    assert {link.lstrip("#") for link in links} <= set(ids)


def test_the_page_can_be_read_aloud() -> None:
    page = Page(render_report(report()))
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert {header.get("scope") for header in page.all("th")} == {"col", "row"}
    assert len(page.all("h1")) == 1
    assert all(e.get("aria-label") for _, e in page.elements if e.get("role") == "img")


def test_neighbours_with_one_title_stand_under_one_heading() -> None:
    pictures = [picture("a"), picture("b"), picture("g", "1"), picture("g", "2"), picture("c")]
    html = render_report(report(pictures=pictures))
    assert html.count('<div class="group">') == 3
    assert html.count("<h3><bdi>g</bdi></h3>") == 1
    assert html.index("<bdi>b<") < html.index("<bdi>g<") < html.index("<bdi>c<")


def test_a_picture_without_its_plain_image_stands_alone_and_large_ones_shrink() -> None:
    large = replace(picture(before=False), image_HWC=np.zeros((900, 1280, 3), np.uint8))
    images = Page(render_report(report(pictures=[large]))).all("img")
    assert [(image["width"], image["height"]) for image in images] == [("640", "450")]


def test_an_empty_report_says_so() -> None:
    html = render_report(report(rounds=[], pictures=[], facts=[], notes=[], subtitle=""))
    Page(html)
    assert "No round is finished yet." in html
    assert not svgs(html)
    assert "<h2 id=" in html
    assert html.count("<h2") == 1


def test_a_chart_without_any_value_says_so() -> None:
    html = render_report(report(rounds=[row(clicks_per_mask=None)]))
    assert len(svgs(html)) == 3
    assert "Nothing measured yet" in html


def test_many_rounds_and_scores_of_zero_are_drawn() -> None:
    many = [
        row(round=n, masks_per_image=0.0, miou_1_click=0.0, miou_3_clicks=None) for n in range(60)
    ]
    assert len(svgs(render_report(report(rounds=many)))) == 4


def test_times_are_printed_in_utc_and_the_same_report_gives_the_same_file() -> None:
    local = datetime(2026, 11, 3, 1, 5, tzinfo=timezone(timedelta(hours=-8)))
    html = render_report(report(created_at=local))
    assert "3 November 2026, 09:05 UTC" in html
    assert html == render_report(report(created_at=local))
    with pytest.raises(ValueError, match="time zone"):
        render_report(report(created_at=datetime(2026, 11, 3)))


def test_stages_have_names() -> None:
    assert stage_name("semi_automatic") == "Semi-automatic"
    assert stage_name("ground_truth") == "ground truth"
