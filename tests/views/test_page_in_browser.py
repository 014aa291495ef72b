"""The report, opened and clicked through in a real browser: on a phone and on a desk, by day and by night."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import Browser
from support.nights import a_night, beat, failed

from hubsync.views.page import draw_page
from hubsync.views.story import tell

PHONE, DESK = 390, 1280
UNIT = "runs/with-a-rather-long-name/checkpoint-100000"

# The contrast of each text with what lies behind it, the lowest first (https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio).
_CONTRASTS = """
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const colour = getComputedStyle(one).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
  return 'rgb(255, 255, 255)';
};
return [...document.querySelectorAll('h1, h2, h3, p, a, b, span, td, th, summary, small, li')]
  .filter((one) => one.innerText && one.checkVisibility())
  .map((one) => {
    const [a, b] = [light(getComputedStyle(one).color), light(ground(one))].sort();
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }).sort((a, b) => a - b);
"""
# What is wider than the screen, except tables in a frame of their own that can be pushed sideways.
_TOO_WIDE = """
return [...document.body.querySelectorAll('*')]
  .filter((one) => !one.closest('.scroll, svg') && one.getBoundingClientRect().right > innerWidth + 1)
  .map((one) => one.tagName + ' ' + one.textContent.slice(0, 40));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Give a browser."""
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the report of a night without a Hub, of a second mirror that is parked, and of what is held."""
    parked = failed(13, 1, mirror="onprem", error="HTTP 403: " + "no rights " * 20, hint="ask for rights")
    parked |= {"event": "mirror.parked", "level": "error"}
    saved: dict[str, Any] = {"target": "sft", "mirror": "hub", "unit": UNIT, "event": "unit.published", "lag_s": 900}
    held = beat(14, held=2, waiting=[f"{UNIT}/: model.safetensors.index.json names a file that is missing"])
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(draw_page(tell([*a_night(), parked, {**parked, **saved}, *held])))
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_page_is_readable_everywhere(browser: Browser, page: Path, width: int, scheme: str) -> None:
    """Nothing is wider than the screen, every text stands out from its ground, and nothing is loaded or complained of."""
    browser.open(page, width=width, scheme=scheme)

    assert [] == browser.run(_TOO_WIDE)
    assert width == browser.run("return innerWidth")
    contrasts = browser.run(_CONTRASTS)
    assert len(contrasts) > 50
    assert contrasts[0] >= 4.5
    assert [] == browser.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert [] == browser.complaints()


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_its_links_and_folds_work(browser: Browser, page: Path, width: int) -> None:
    """Each link of the navigation brings its part into view, and each fold opens and closes."""
    browser.open(page, width=width)
    for link in browser.run("return [...document.querySelectorAll('nav a')].map((one) => one.getAttribute('href'))"):
        browser.run("scrollTo(0, 0)")
        browser.click(f'nav a[href="{link}"]')
        top = browser.run(f"return document.querySelector('{link}').getBoundingClientRect().top")
        seen = browser.run("return innerHeight")
        assert -2 <= top < seen

    before = browser.run("return [...document.querySelectorAll('details')].map((one) => one.open)")
    browser.click("#failures > summary")
    browser.click("#warnings > summary")
    after = browser.run("return [...document.querySelectorAll('details')].map((one) => one.open)")
    assert 2 == sum(was != now for was, now in zip(before, after, strict=True))
    assert [] == browser.complaints()


def test_what_does_not_work_comes_first(browser: Browser, page: Path) -> None:
    """Who opens the page on a phone sees the worst of what goes on, with its cure, without scrolling."""
    browser.open(page, width=PHONE, height=844)
    card = "document.querySelector('.card')"

    assert "sft → onprem gets nothing" == browser.run(f"return {card}.querySelector('h3').innerText")
    assert "→ ask for rights" in browser.run(f"return {card}.innerText")
    assert browser.run(f"return {card}.getBoundingClientRect().bottom") < 844


def test_charts_are_drawn_to_the_width(browser: Browser, page: Path) -> None:
    """Each chart has its figures and the failure behind them, over the whole width of its card."""
    browser.open(page, width=DESK)
    drawn = browser.run("""
      return [...document.querySelectorAll('figure')].map((one) => [
        one.querySelector('svg').getBoundingClientRect().width / one.getBoundingClientRect().width,
        one.querySelectorAll('.line, .bar, .band').length])
    """)

    assert len(drawn) >= 5
    assert all(share > 0.99 for share, _ in drawn)
    assert sum(shapes > 0 for _, shapes in drawn) >= 4
