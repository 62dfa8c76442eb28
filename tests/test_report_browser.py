"""The report in a browser: it draws, its controls work with mouse and keys, and it asks for nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import LENET

from jaxcnn.report.page import opened
from jaxcnn.report.page.report import write_report
from jaxcnn.train.loop import train

pytestmark = pytest.mark.slow  # a browser starts

WAIT = 60  # seconds, on a machine that is busy


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a LeNet, open in Chromium; without Chromium the tests are skipped."""
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(found):
        reason = "chromium and chromedriver (Debian: apt-get install chromium chromium-driver) run these tests"
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    folder = tmp_path_factory.mktemp("runs")
    train(LENET, folder / "lenet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened, "SMALL", 0)  # without what is sought by hundreds of gradients
        file = write_report([folder / "lenet"])
    options = webdriver.ChromeOptions()
    options.binary_location = str(found[0])
    quiet = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    quiet += " disable-component-update disable-sync disable-dev-shm-usage"
    for flag in [*quiet.split(), f"user-data-dir={folder / 'browser'}", "window-size=1200,900"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(found[1])))
    try:
        yield Page(driver, file)
    finally:
        driver.quit()


class Page:
    """The page, as the tests use it."""

    def __init__(self, driver, file: Path) -> None:
        self.driver, self.file = driver, file
        self.open()

    def open(self, width: int = 1200, scheme: str = "light") -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.prefer(scheme)
        self.driver.get(self.file.as_uri())
        self.until("return document.documentElement.dataset.charts === 'drawn'")

    def prefer(self, scheme: str) -> None:
        """Sets the colour scheme; what moves would be missed by the mouse."""
        preferred = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in preferred.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def do(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, done: str | Callable[[], bool]):
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, WAIT).until(lambda _: self.do(done) if isinstance(done, str) else done())

    def find(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def ticks(self, chart: str) -> set[str]:
        """Labels of the horizontal axis."""
        selector = f'{chart} [aria-label^="X-axis"] text'
        return set(self.do("return [...document.querySelectorAll(arguments[0])].map(t => t.textContent)", selector))


def test_the_page_draws_asks_for_nothing_and_complains_of_nothing(page):
    for log in ("browser", "performance"):
        page.driver.get_log(log)  # what the browser did before
    page.open()
    assert page.do("return document.querySelectorAll('[data-chart] svg.marks').length") == 2
    messages = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    # The browser's own pages make requests too, whenever they come to it.
    requests = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    asked = {r["request"]["url"] for r in requests if r["documentURL"] == page.file.as_uri()}
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {page.file.as_uri()}
    assert page.driver.get_log("browser") == []


def test_the_curves_are_zoomed_together(page):
    page.open()
    before = page.ticks("#learning-1")
    page.find("[data-zoom=in]").click()
    for chart in ("#learning-1", "#learning-2"):
        page.until(lambda chart=chart: page.ticks(chart) != before)
        assert len(page.ticks(chart)) > 1
        # Two epochs are two points, and between them is the line.
        line = (
            f"return [...document.querySelectorAll('{chart} .mark-line path')].some(p => /L/.test(p.getAttribute('d')))"
        )
        assert page.do(line)
    assert page.find(".range").text.startswith("epochs ")
    page.find("[data-zoom=reset]").click()
    for chart in ("#learning-1", "#learning-2"):
        page.until(lambda chart=chart: page.ticks(chart) == before)
    assert page.find(".range").text == ""


def test_dragging_one_curve_moves_the_other(page):
    from selenium.webdriver import ActionChains

    page.open()
    before = page.ticks("#learning-2")
    chart = page.find("#learning-1 svg.marks")
    ActionChains(page.driver).move_to_element(chart).click_and_hold().move_by_offset(-80, 0).release().perform()
    page.until(lambda: page.ticks("#learning-2") != before)


def test_a_curve_is_read_off(page):
    from selenium.webdriver import ActionChains

    page.open()
    ActionChains(page.driver).move_to_element(page.find("#learning-2 svg.marks")).perform()
    page.until("return document.querySelector('#vg-tooltip-element.visible') !== null")
    text = page.find("#vg-tooltip-element").text
    assert {"series", "epoch", "step", "accuracy"} <= set(text.replace("\n", " ").replace(":", "").split())
    assert "%" in text


def test_a_number_of_the_matrix_opens_its_images(page):
    page.open()
    button = page.find("[data-cell]")
    count = int(button.text)
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    assert page.do("return document.querySelectorAll('#behind img').length") == min(count, 24)
    assert page.do(
        "return [...document.querySelectorAll('#behind img')].every(i => i.complete && i.naturalWidth === 28)"
    )
    button.click()
    assert button.get_attribute("aria-expanded") == "false"
    assert page.do("return document.querySelectorAll('#behind img').length") == 0


def test_the_matrix_is_one_stop_of_the_keyboard_and_the_arrows_move_in_it(page):
    from selenium.webdriver.common.keys import Keys

    page.open()
    assert page.do("return document.querySelectorAll('.matrix [data-cell][tabindex=\"0\"]').length") == 1
    cells = page.do("return [...document.querySelectorAll('.matrix [data-cell]')].map(b => b.dataset.cell)")
    page.do("document.querySelector('.matrix [data-cell]').focus()")
    row, column = map(int, cells[0].split("-"))
    same_row = [cell for cell in cells if cell.startswith(f"{row}-")]
    same_column = [cell for cell in cells if cell.endswith(f"-{column}")]
    key, expected = (Keys.ARROW_RIGHT, same_row[1]) if len(same_row) > 1 else (Keys.ARROW_DOWN, same_column[1])
    page.driver.switch_to.active_element.send_keys(key)
    active = page.driver.switch_to.active_element
    assert active.get_attribute("data-cell") == expected
    active.send_keys(Keys.ENTER)
    assert active.get_attribute("aria-expanded") == "true"
    active.send_keys(Keys.ESCAPE)
    assert active.get_attribute("aria-expanded") == "false"


def test_the_first_stop_of_the_keyboard_leads_to_the_content(page):
    from selenium.webdriver.common.keys import Keys

    page.open()
    page.find("body").send_keys(Keys.TAB)
    active = page.driver.switch_to.active_element
    assert active.get_attribute("href").endswith("#content")
    active.send_keys(Keys.ENTER)
    page.until("return document.activeElement.id === 'content'")


def test_the_page_fits_a_phone(page):
    page.open(width=360)
    assert page.do("return document.documentElement.scrollWidth") <= 360
    assert page.do(
        "return [...document.querySelectorAll('svg.marks')].every(s => s.getBoundingClientRect().right <= 360)"
    )


def test_charts_and_page_follow_the_colour_scheme(page):
    shades = {}
    for scheme in ("light", "dark"):
        page.open(scheme=scheme)
        background = page.do("return getComputedStyle(document.body).backgroundColor")
        line = page.do("return document.querySelector('.mark-line path').getAttribute('stroke')")
        shades[scheme] = (background, line)
    assert shades["light"][0] != shades["dark"][0]
    assert shades["light"][1] != shades["dark"][1]
    page.prefer("light")  # while the page is open
    page.until(f"return document.querySelector('.mark-line path')?.getAttribute('stroke') === '{shades['light'][1]}'")
