"""The page in a real browser: Debian's Chromium, driven by Playwright (`pip install -e '.[browser]'`)."""

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
    """Opens the page of made-up results; at the end nothing may have gone wrong or left the machine."""
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
        shown = context.new_page()
        shown.on(
            "console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None
        )
        shown.on("pageerror", lambda error: troubles.append(str(error)))
        shown.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else troubles.append(request.url),
        )
        shown.goto((place.workspace.leaderboard / "index.html").as_uri())
        # "other" comes first in the alphabet.
        shown.select_option("#suite", "tiny")
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def names(shown):
    return shown.eval_on_selector_all("#accuracy tbody tr", "rows => rows.map(row => row.dataset.row)")


def test_accuracy_table_sorts_both_ways(opened):
    shown = opened()
    assert names(shown)[0] == "step/stage0" and len(names(shown)) == 9
    assert shown.inner_text('[data-cell="step/stage1 tiny-objects"]') == "60.0"
    shown.click('[data-sort="tiny-objects"]')
    assert names(shown)[0] == "hold/stage2" and names(shown)[-1] == "step/stage0"
    assert shown.get_attribute('th:has([data-sort="tiny-objects"])', "aria-sort") == "descending"
    shown.click('[data-sort="tiny-objects"]')
    assert names(shown)[0] == "step/stage0" and names(shown)[-1] == "hold/stage2"


def test_rows_filter_by_arm_text_and_protocol(opened):
    shown = opened()
    shown.uncheck('#arms input[value="average"]')
    shown.uncheck('#arms input[value="constant"]')
    assert {name.split("/")[0] for name in names(shown)} == {"step", "hold"}
    shown.fill("#search", "stage3")
    assert names(shown) == ["step/stage3", "hold/stage3"]
    assert shown.inner_text("#count") == "2 of 9 rows shown"
    shown.click("#protocols button:text('knn')")
    assert shown.get_attribute("#protocols button:text('knn')", "aria-pressed") == "true"
    assert names(shown) == ["step/stage3", "hold/stage3"]


def test_cell_opens_its_results_with_links_to_records(opened, place):
    shown = opened()
    shown.click('[data-cell="hold/stage2 tiny-objects"]')
    assert shown.inner_text("#details-title") == "hold/stage2 → tiny-objects, probe"
    assert "against step/stage1" in shown.inner_text("#details-body")
    links = shown.eval_on_selector_all("#details a", "all => all.map(each => each.getAttribute('href'))")
    assert len(links) == 2 and all((place.workspace.leaderboard / link).is_file() for link in links)
    rows = shown.eval_on_selector_all("#details tbody tr", "rows => rows.map(row => row.innerText)")
    assert "90.00" in rows[0] and "87.50" in rows[1]
    shown.keyboard.press("Escape")
    assert not shown.is_visible("#details")


def test_keyboard_sorts_opens_and_closes(opened):
    shown = opened()
    shown.focus('[data-sort="source"]')
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.activeElement.dataset.sort") == "source"
    assert names(shown)[-1] == "step/stage0"
    shown.focus('[data-cell="step/stage3 tiny-indoor"]')
    shown.keyboard.press("Enter")
    assert shown.is_visible("#details")
    shown.keyboard.press("Enter")
    assert not shown.is_visible("#details")
    assert shown.evaluate("document.activeElement.dataset.cell") == "step/stage3 tiny-indoor"


@pytest.mark.parametrize("figure", ["stages", "forest", "tradeoff"])
def test_figure_marks_have_tooltips(opened, figure):
    shown = opened()
    marks = shown.query_selector_all(f"#{figure} .mark")
    assert marks and not shown.is_visible("#tip")
    marks[-1].focus()
    assert shown.is_visible("#tip") and "tiny-" in shown.inner_text("#tip")
    assert shown.inner_text("#tip") == marks[-1].get_attribute("aria-label")
    shown.focus("#search")
    assert not shown.is_visible("#tip")
    # The last is on top of the others.
    marks[-1].hover()
    assert shown.is_visible("#tip")


def test_suite_titles_are_escaped(opened):
    shown = opened()
    shown.select_option("#suite", "other")
    assert shown.inner_text("#title") == "</script><b id='injected'>Other</b>"
    assert shown.query_selector("#injected") is None
    assert shown.query_selector_all("#protocols button")[0].inner_text() == "knn"


def test_colours_follow_system_and_button(opened):
    shown = opened(color_scheme="dark")
    dark = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    shown.click("#theme")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)" != dark


def test_page_fits_on_a_phone(opened):
    shown = opened(width=390, height=800, has_touch=True)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    drawings = shown.eval_on_selector_all(
        "figure svg", "all => all.map(svg => [svg.viewBox.baseVal.width, svg.clientWidth])"
    )
    # Drawn as wide as they are shown, so that their text keeps its size.
    assert len(drawings) == 3 and all(abs(drawn - seen) <= 1 for drawn, seen in drawings)
    shown.tap('[data-cell="step/stage1 tiny-objects"]')
    box = shown.query_selector("#details").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_first_screen_shows_which_checkpoint(opened):
    shown = opened()
    box = shown.query_selector("#checkpoints").bounding_box()
    assert box["y"] + box["height"] <= 900
    cells = shown.eval_on_selector_all("#checkpoints tbody tr", "rows => rows.map(row => row.innerText.split('\\t'))")
    assert cells[0] == ["tiny-objects", "hold/stage2 (88.8 %)", "all 8 others", "none"]


def test_saturation_null_is_drawn_and_named(opened, place, monkeypatch):
    shown = opened()
    assert not shown.query_selector_all("#tradeoff path.null") and "null" not in shown.text_content("#tradeoff")
    monkeypatch.setattr("lrbench.leaderboard.figure_data.LEAST_SNAPSHOTS", 4)
    page.write(place.workspace, ["tiny", "other"])
    shown = opened()
    assert len(shown.query_selector_all("#tradeoff path.null")) == 2
    assert "saturation null (fit without decay)" in shown.text_content("#tradeoff")


def test_foreign_snapshots_have_a_view(opened, place, tiny):
    names = {"arm": None, "stage": None, "pretraining_seed": None, "source_accuracy": None}
    for name, wrong in (("timm:<b id='injected'>a", 1), ("b", 20)):
        snapshot = {**names, "reference": name, "sha256": name[-1] * 64}
        put(place.workspace, tiny.model_copy(update={"name": "foreign"}), wrong=wrong, snapshot=snapshot)
    page.write(place.workspace, ["tiny", "foreign"])
    shown = opened()
    shown.click("#views button:text('Other snapshots (2)')")
    assert (
        shown.is_visible("#foreign")
        and not shown.is_visible("#suite-view")
        and shown.query_selector("#injected") is None
    )
    cells = shown.eval_on_selector_all("#foreign tbody tr", "rows => rows.map(row => row.innerText.split('\\t'))")
    assert ["timm:<b id='injected'>a", "aaaaaaaa", "97.5 [87.1, 99.6]"] in cells
    assert shown.inner_text("#foreign .best") == "97.5 [87.1, 99.6]"
    shown.click("#views button:text('Suites')")
    assert shown.is_visible("#accuracy") and not shown.is_visible("#foreign")
