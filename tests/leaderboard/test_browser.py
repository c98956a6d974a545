"""The web page in Debian's Chromium, driven by Playwright (`pip install -e '.[browser]'`)."""

import shutil

import pytest

from lrbench.leaderboard import page
from tests.leaderboard.fake import fill, put

playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: pip install -e '.[browser]'"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield running
        running.close()


@pytest.fixture
def opened(browser, place, tiny):
    """Open the page of made-up results; the browser must report no error and request nothing from the network."""
    fill(place.workspace, tiny, lambda row, seed, task: 4 if row == ("hold", 2) else 20 - 4 * row[1])
    other = tiny.model_copy(
        update={"name": "other", "title": "</script><b id='injected'>Other</b>", "protocols": ("knn",)}
    )
    fill(place.workspace, other)
    put(place.workspace, tiny, arm="hold", stage=2, seed=1, wrong=5)
    page.write(place.workspace, ["tiny", "other"])
    troubles, contexts = [], []

    def open_page(width=1200, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on(
            "console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None
        )
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else troubles.append(request.url),
        )
        tab.goto((place.workspace.leaderboard / "index.html").as_uri())
        # "other" comes first in the alphabet.
        tab.select_option("#suite", "tiny")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def names(tab):
    return tab.eval_on_selector_all("#accuracy tbody tr", "rows => rows.map(row => row.dataset.row)")


def test_accuracy_table_sorts_both_ways(opened):
    tab = opened()
    assert names(tab)[0] == "step/stage0" and len(names(tab)) == 9
    assert tab.inner_text('[data-cell="step/stage1 tiny-objects"]') == "60.0 ± 15.0"
    tab.click('[data-sort="tiny-objects"]')
    assert names(tab)[0] == "hold/stage2" and names(tab)[-1] == "step/stage0"
    assert tab.get_attribute('th:has([data-sort="tiny-objects"])', "aria-sort") == "descending"
    tab.click('[data-sort="tiny-objects"]')
    assert names(tab)[0] == "step/stage0" and names(tab)[-1] == "hold/stage2"


def test_rows_filter_by_arm_text_and_protocol(opened):
    tab = opened()
    tab.uncheck('#arms input[value="average"]')
    tab.uncheck('#arms input[value="constant"]')
    assert {name.split("/")[0] for name in names(tab)} == {"step", "hold"}
    tab.fill("#search", "stage3")
    assert names(tab) == ["step/stage3", "hold/stage3"]
    assert tab.inner_text("#count") == "2 of 9 rows shown"
    tab.click("#protocols button:text('knn')")
    assert tab.get_attribute("#protocols button:text('knn')", "aria-pressed") == "true"
    assert names(tab) == ["step/stage3", "hold/stage3"]


def test_cell_opens_its_results_with_links_to_records(opened, place):
    tab = opened()
    tab.click('[data-cell="hold/stage2 tiny-objects"]')
    assert tab.inner_text("#details-title") == "hold/stage2 → tiny-objects, probe"
    assert "against step/stage1" in tab.inner_text("#details-body")
    links = tab.eval_on_selector_all("#details a", "all => all.map(each => each.getAttribute('href'))")
    assert len(links) == 2 and all((place.workspace.leaderboard / link).is_file() for link in links)
    rows = tab.eval_on_selector_all("#details tbody tr", "rows => rows.map(row => row.innerText)")
    assert "90.00" in rows[0] and "87.50" in rows[1]
    tab.keyboard.press("Escape")
    assert not tab.is_visible("#details")


def test_keyboard_sorts_opens_and_closes(opened):
    tab = opened()
    tab.focus('[data-sort="source"]')
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.dataset.sort") == "source"
    assert names(tab)[-1] == "step/stage0"
    tab.focus('[data-cell="step/stage3 tiny-indoor"]')
    tab.keyboard.press("Enter")
    assert tab.is_visible("#details")
    tab.keyboard.press("Enter")
    assert not tab.is_visible("#details")
    assert tab.evaluate("document.activeElement.dataset.cell") == "step/stage3 tiny-indoor"


@pytest.mark.parametrize("figure", ["stages", "forest", "tradeoff"])
def test_figure_marks_have_tooltips(opened, figure):
    tab = opened()
    marks = tab.query_selector_all(f"#{figure} .mark")
    assert marks and not tab.is_visible("#tip")
    marks[-1].focus()
    assert tab.is_visible("#tip") and "tiny-" in tab.inner_text("#tip")
    assert tab.inner_text("#tip") == marks[-1].get_attribute("aria-label")
    tab.focus("#search")
    assert not tab.is_visible("#tip")
    # The last mark is drawn on top.
    marks[-1].hover()
    assert tab.is_visible("#tip")


def test_suite_titles_are_escaped(opened):
    tab = opened()
    tab.select_option("#suite", "other")
    assert tab.inner_text("#title") == "</script><b id='injected'>Other</b>"
    assert tab.query_selector("#injected") is None
    assert tab.query_selector_all("#protocols button")[0].inner_text() == "knn"


def test_colours_follow_system_and_button(opened):
    tab = opened(color_scheme="dark")
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.click("#theme")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)" != dark


def test_page_fits_on_a_phone(opened):
    tab = opened(width=390, height=800, has_touch=True)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    drawings = tab.eval_on_selector_all(
        "figure svg", "all => all.map(svg => [svg.viewBox.baseVal.width, svg.clientWidth])"
    )
    # Drawings are as wide as they are displayed, so text keeps its size.
    assert len(drawings) == 3 and all(abs(drawn - seen) <= 1 for drawn, seen in drawings)
    tab.tap('[data-cell="step/stage1 tiny-objects"]')
    box = tab.query_selector("#details").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_first_screen_shows_which_checkpoint(opened):
    tab = opened()
    box = tab.query_selector("#checkpoints").bounding_box()
    assert box["y"] + box["height"] <= 900
    cells = tab.eval_on_selector_all("#checkpoints tbody tr", "rows => rows.map(row => row.innerText.split('\\t'))")
    assert cells[0][:2] == ["tiny-objects", "hold/stage2 (88.8 %)"] and cells[0][3] == "step/stage0, step/stage1"


def test_saturation_null_is_drawn_and_named(opened, place, monkeypatch):
    tab = opened()
    assert not tab.query_selector_all("#tradeoff path.null") and "null" not in tab.text_content("#tradeoff")
    monkeypatch.setattr("lrbench.leaderboard.figure_data.MIN_SNAPSHOTS", 3)
    page.write(place.workspace, ["tiny", "other"])
    tab = opened()
    assert len(tab.query_selector_all("#tradeoff path.null")) == 2
    assert "saturation null (fit without decay)" in tab.text_content("#tradeoff")


def test_foreign_snapshots_have_a_view(opened, place, tiny):
    names = {"arm": None, "stage": None, "pretraining_seed": None, "source_accuracy": None}
    for name, wrong in (("timm:<b id='injected'>a", 1), ("b", 20)):
        snapshot = {**names, "reference": name, "sha256": name[-1] * 64}
        put(place.workspace, tiny.model_copy(update={"name": "foreign"}), wrong=wrong, snapshot=snapshot)
    page.write(place.workspace, ["tiny", "foreign"])
    tab = opened()
    tab.click("#views button:text('Other snapshots (2)')")
    assert tab.is_visible("#foreign") and not tab.is_visible("#suite-view") and tab.query_selector("#injected") is None
    cells = tab.eval_on_selector_all("#foreign tbody tr", "rows => rows.map(row => row.innerText.split('\\t'))")
    assert ["timm:<b id='injected'>a", "aaaaaaaa", "97.5 [87.1, 99.6]"] in cells
    assert tab.inner_text("#foreign .best") == "97.5 [87.1, 99.6]"
    tab.click("#views button:text('Suites')")
    assert tab.is_visible("#accuracy") and not tab.is_visible("#foreign")
