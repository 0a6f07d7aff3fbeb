"""The page in a real browser, opened from its file."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import page
from bench.leaderboard import leaderboard
from bench.records import Record
from bench.store import Store
from tests.bench import cells

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (BROWSER and DRIVER),
        reason="the page is tested in Chromium: install chromium and chromium-driver",
    ),
]
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DEMO = Path(__file__).parent / "samples" / "demo"
WATCH = "window.ran = []; for (const name of ['alert', 'prompt', 'confirm', 'open']) "
WATCH += "window[name] = (text) => window.ran.push(text);"


def small() -> list[Record]:
    return [*cells.matrix(), cells.failed("refit", 2, "no luck"), *cells.matrix(model="other")]


RECORDS: dict[str, Callable[[], list[Record]]] = {
    "small": small,
    "hostile": cells.hostile,
    "demo": lambda: list(Store(DEMO).all().values()),
    "failed": lambda: [cells.failed("uidl", 3, "no luck")],
}
# what the tests ask the page; arguments stand for the words in capitals
COUNT = "return document.querySelectorAll(arguments[0]).length"  # QUERY
SHOWN = "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetHeight).length"  # QUERY
TEXT = "return document.querySelector(arguments[0])?.textContent"  # QUERY
MARKS = ".role-mark.mark-symbol path, .role-mark.mark-rect path"
WAIT = "return new Promise(done => setTimeout(done, 150))"
ROWS = """
const body = document.getElementById('table').tBodies[arguments[0]];  // GROUP
const shown = [...body.rows].slice(1).filter(row => row.offsetHeight);
return shown.map(row => row.dataset.solver + ' ' + row.dataset.cut);
"""
HEAD = """
const buttons = [...document.querySelectorAll('#table thead button')];
return buttons.find(button => button.textContent.trim().startsWith(arguments[0]));  // NAME
"""
SORTED = "return document.querySelector('#table th[aria-sort]')?.getAttribute('aria-sort')"
CELLS_SHOWN = """
const table = document.getElementById('table');
const shown = row => [...row.cells].filter(cell => cell.offsetWidth).length;
return [table.tHead.rows[0], [...table.tBodies[1].rows].at(-1)].map(shown);
"""
FOCUS_INSIDE = """
const active = document.activeElement;
return active === document.body || !!active.closest('dialog[open]');
"""
WIDEST_CHART = """
const charts = [...document.querySelectorAll('.chart svg')];
return Math.max(...charts.map(chart => chart.getBoundingClientRect().right));
"""


class Browser:
    """A Chromium with one tab, and what this file does with it."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        assert BROWSER
        options.binary_location = BROWSER
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)

    def call(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def size(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def media(self, media: str = "", scheme: str = "light") -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", media=media, features=[feature])

    def open(self, file: Path, fragment: str = "") -> None:
        """Load a page anew, without what the one before has logged, and wait for its charts."""
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.size(1280, 900)
        self.media()
        self.driver.get(file.as_uri() + fragment)
        WebDriverWait(self.driver, 20).until(lambda _: self.charts[0] == self.charts[1])

    @property
    def charts(self) -> tuple[int, int]:
        """Numbers of charts drawn, and of charts."""
        script = (
            "return ['[data-chart] svg', '[data-chart]'].map(q => document.querySelectorAll(q).length)"
        )
        drawn, all_of_them = self.run(script)
        return drawn, all_of_them

    @property
    def said(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    @property
    def requested(self) -> set[str]:
        entries = self.driver.get_log("performance")
        events = [json.loads(entry["message"])["message"] for entry in entries]
        return {
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        }

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def rows(self, group: int = 0) -> list[str]:
        """The solver and cut of the rows that are shown in a group of the leaderboard."""
        found: list[str] = self.run(ROWS, group)
        return found

    def head(self, name: str) -> Any:
        """The button that sorts by a column."""
        return self.run(HEAD, name)

    def choose(self, select: str, text: str) -> None:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import Select

        found = self.driver.find_element(By.CSS_SELECTOR, f"[data-filter={select}]")
        Select(found).select_by_visible_text(text)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, records in RECORDS.items():
        made = records()
        found[name] = folder / f"{name}.html"
        found[name].write_text(page.render(made, leaderboard.build(made)), encoding="utf-8")
    return found


@pytest.mark.parametrize("name", RECORDS)
def test_page_opens_from_its_file_without_a_request_or_a_complaint(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.open(pages[name])
    drawn, charts = browser.charts
    assert drawn == charts
    assert (charts > 5) == (name != "failed")
    assert browser.run(COUNT, "[data-chart] svg path") >= 20 * charts
    assert browser.said == []
    assert browser.requested == {pages[name].as_uri()}


def test_hostile_names_run_nothing_and_make_no_element(browser: Browser, pages: dict[str, Path]) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    browser.open(pages["hostile"])
    shown = ""
    for chart in browser.driver.find_elements(By.CSS_SELECTOR, "[data-chart]"):
        browser.run("arguments[0].scrollIntoView({block: 'center'})", chart)
        marks = chart.find_elements(By.CSS_SELECTOR, MARKS)
        ActionChains(browser.driver).move_to_element(marks[0]).perform()
        shown += browser.run(TEXT, "#vg-tooltip-element") or ""
    assert "<img src=x onerror=alert(1)>" in shown
    assert browser.run(COUNT, "img, iframe, object, embed") == 0
    assert browser.run(COUNT, "script") == 3
    assert browser.run("return window.ran") == []
    assert browser.said == []
    assert browser.requested == {pages["hostile"].as_uri()}


def test_columns_sort_by_mouse_and_keyboard_within_a_group(
    browser: Browser, pages: dict[str, Path]
) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(pages["small"])
    as_built = browser.rows()
    best_first = ["baseline 0", "lstsq 2", "uidl 2", "lstsq 4", "uidl 4", "refit 2"]
    assert as_built == ["baseline 0", "lstsq 2", "uidl 2", "refit 2", "lstsq 4", "uidl 4"]
    browser.head("avg").click()
    assert browser.rows(0) == best_first  # the unknown one comes last, whatever the direction
    assert browser.rows(1) == best_first[:-1]
    assert browser.run(SORTED) == "descending"
    assert "Sorted by avg %, highest first. 11 of 11 rows" in browser.run(TEXT, "#status")
    browser.run("arguments[0].focus()", browser.head("avg"))
    browser.press(Keys.ENTER)
    assert browser.run(SORTED) == "ascending"
    assert browser.rows() == [*best_first[-2::-1], "refit 2"]
    browser.run("arguments[0].focus()", browser.head("b1 128→64 p50"))
    browser.press(Keys.SPACE)
    assert browser.run(SORTED) == "ascending"  # lower is better, so the lowest comes first
    assert browser.rows()[:2] == ["lstsq 4", "uidl 4"]
    assert browser.rows()[-1] == "refit 2"
    browser.head("variant").click()
    assert browser.rows() == ["baseline 0", "lstsq 2", "lstsq 4", "refit 2", "uidl 2", "uidl 4"]
    browser.run("document.querySelector('button[type=reset]').click()")
    browser.run(WAIT)
    assert browser.rows() == as_built
    assert browser.run(SORTED) is None


def test_rows_and_columns_can_be_filtered(browser: Browser, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.open(pages["small"])
    field = browser.driver.find_element(By.ID, "filter")
    field.send_keys("LSTSQ best")
    assert browser.rows(0) == browser.rows(1) == ["lstsq 2", "lstsq 4"]
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("failed")
    assert (browser.rows(0), browser.rows(1)) == (["refit 2"], [])
    assert browser.run(SHOWN, "tr.group") == 1
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(Keys.BACKSPACE)
    browser.choose("solver", "uidl")
    browser.choose("cut", "4")
    assert (browser.rows(0), browser.rows(1)) == (["uidl 4"], ["uidl 4"])
    browser.choose("model", "other")
    assert (browser.rows(0), browser.rows(1)) == ([], ["uidl 4"])
    assert browser.run(TEXT, "#status") == "1 of 11 rows shown."
    assert browser.run(SHOWN, "#table th[data-set=tasks]") == 2
    before = browser.run(CELLS_SHOWN)
    browser.driver.find_element(By.CSS_SELECTOR, "[data-columns=tasks]").click()
    assert browser.run(SHOWN, "#table th[data-set=tasks]") == 0
    assert browser.run(CELLS_SHOWN) == [count - 2 for count in before]
    assert before[0] == before[1] > 7


def test_details_open_and_close_by_keyboard_and_give_the_focus_back(
    browser: Browser, pages: dict[str, Path]
) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(pages["small"])
    link = "document.querySelector('tr[data-solver=lstsq][data-cut=\"4\"] a')"
    opened = "dialog[open] h2"
    browser.run(f"{link}.focus()")
    browser.press(Keys.ENTER)
    assert browser.run(TEXT, opened) == "lstsq, 4 layers removed"
    for _ in range(20):
        assert browser.run(FOCUS_INSIDE)
        browser.press(Keys.TAB)
    browser.press(Keys.ESCAPE)
    assert browser.run(TEXT, opened) is None
    assert browser.run(f"return document.activeElement === {link}")
    assert browser.run("return location.hash") == ""
    browser.press(Keys.ENTER)
    assert browser.run("return document.activeElement.className") == "close"
    browser.press(Keys.ENTER)
    assert browser.run(TEXT, opened) is None
    assert browser.run(f"return document.activeElement === {link}")
    browser.open(pages["small"], "#cell-other-2-uidl")
    assert browser.run(TEXT, opened) == "uidl, 2 layers removed"
    assert browser.said == []


CONTRAST = """
const parse = (colour) => {
  const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
  return [r, g, b, a];
};
const light = ([r, g, b]) => [r, g, b].map(x => x / 255)
  .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
  .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour[3] === 1) return colour;
  }
  return [255, 255, 255, 1];
};
const found = [];
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || !element.getClientRects().length) continue;
  const style = getComputedStyle(element);
  const ink = element.closest('svg') ? style.fill : style.color;
  if (ink === 'none') continue;
  const [a, b] = [light(parse(ink)), light(ground(element))].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), texts.currentNode.data.trim().slice(0, 40)]);
}
return found.sort((x, y) => x[0] - y[0]);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast_in_both_schemes(
    browser: Browser, pages: dict[str, Path], scheme: str
) -> None:
    browser.open(pages["small"], "#cell-m-2-lstsq")
    browser.media(scheme=scheme)
    ground = browser.run("return getComputedStyle(document.documentElement).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    found = browser.run(CONTRAST)
    assert len(found) > 300
    assert found[0][0] >= 4.5, found[:5]


@pytest.mark.parametrize("name", RECORDS)
def test_nothing_is_wider_than_a_phone(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name])
    browser.size(360, 740)
    browser.run(WAIT)
    assert browser.run("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    browser.run("document.querySelector('#table a').click()")
    browser.run(WAIT)
    dialog = "document.querySelector('dialog[open]')"
    assert browser.run(f"return [{dialog}.scrollWidth, {dialog}.offsetWidth]") == [360, 360]
    if name != "failed":
        assert browser.run(WIDEST_CHART) <= 360


def test_print_has_table_and_charts_in_light_and_no_controls(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["demo"])
    browser.media("print", "dark")
    assert browser.run(SHOWN, "form, nav, details, dialog, #status, button[type=reset]") == 0
    assert browser.run(SHOWN, "#table tbody tr") > 10
    assert browser.run(SHOWN, ".chart") == browser.charts[1]
    ink = browser.run("return getComputedStyle(document.documentElement).color")
    assert ink == "rgb(27, 32, 38)"
    browser.media()
    pdf = base64.b64decode(browser.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert pdf.startswith(b"%PDF-")
    assert 2 <= pdf.count(b"/Type /Page\n") <= 8


def test_without_javascript_table_and_details_are_there(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.driver.get("about:blank")
        browser.driver.get(pages["small"].as_uri())
        tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    roles = [node["role"]["value"] for node in tree if not node["ignored"]]
    names = {node.get("name", {}).get("value") for node in tree}
    assert roles.count("rowheader") == 11 + 2  # and the groups' titles
    assert roles.count("dialog") == 11
    assert {"lstsq best average of its cut", "60.0 ±2.1 (best of its cut)"} <= names
    assert not {"searchbox", "checkbox", "combobox"} & set(roles)
