"""The report's page in a real browser: on a phone, by night, and its command copied."""

import html
import shlex
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

import onnuri
from onnuri import recipes
from onnuri.cli import main
from onnuri.planner import budget, budget_report, hardware, report

PHONE = {"width": 390, "height": 844}
TYPED = "onnuri plan axk1 --layout own --html 'my plan.html'"


@pytest.fixture(scope="module")
def browser():
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not path:
        pytest.fail("the page's tests need Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=path, args=["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"]
        )


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A plan's page and a budget's, as files."""
    folder = tmp_path_factory.mktemp("pages")
    plan = onnuri.plan("axk1", {"gpu": "H200", "gpus": 1024, "price_usd": 2}, layout="own", days=75)
    few = budget.budget([recipes.find("hyperclovax_omni")], hardware.cluster("H100", 64), 60)
    for name, text in (
        ("plan", report.page_of(plan, "ko", command=TYPED)),
        ("budget", budget_report.page_of(few, "en", TYPED)),
    ):
        (folder / f"{name}.html").write_text(text)
    return folder


@pytest.mark.parametrize("name", ["plan", "budget"])
def test_on_a_phone_nothing_is_narrow_or_endless(browser, pages, name):
    page = browser.new_page(viewport=PHONE)
    page.goto((pages / f"{name}.html").as_uri())
    assert (
        page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    )  # nothing moves the page sideways
    assert page.evaluate("document.documentElement.scrollHeight") < 6 * PHONE["height"]
    for part in page.locator("summary").all():
        if not part.evaluate("s => s.parentNode.open"):
            part.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    narrow = page.evaluate("""[...document.querySelectorAll('td, dd')].filter(c => c.innerText.trim())
                              .map(c => [c.innerText, c.getBoundingClientRect().width]).filter(([, w]) => w < 300)""")
    assert not narrow  # a value has the whole row, its label stands above it or is part of it
    drawing = page.locator("svg").first.evaluate("s => s.getBoundingClientRect().width")
    assert (
        drawing >= 500
    )  # it scrolls in its own box; its words would be 6 px high at the phone's width
    page.close()


def test_by_night_the_paper_is_dark_and_words_are_light(browser, pages):
    def luminance(page, property_):
        red, green, blue = page.evaluate(
            f"getComputedStyle(document.body).{property_}.match(/\\d+/g).slice(0, 3).map(Number)"
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for scheme, dark in (("dark", True), ("light", False)):
        page = browser.new_page(color_scheme=scheme)
        page.goto((pages / "plan.html").as_uri())
        paper, ink = luminance(page, "backgroundColor"), luminance(page, "color")
        assert (paper < 60 and ink > 200) if dark else (paper > 240 and ink < 60)
        page.close()


def test_the_command_is_copied_as_it_was_typed(browser, pages):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto((pages / "plan.html").as_uri())
    button = page.locator(".command button")
    expect(button).to_have_text("복사")
    button.click()
    expect(button).to_have_text("복사함")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == TYPED and shlex.split(copied)[-1] == "my plan.html"
    context.close()


def test_the_verdict_stands_before_everything(browser, pages):
    page = browser.new_page(viewport=PHONE)
    page.goto((pages / "plan.html").as_uri())
    cards = page.locator(".verdict dt").all_inner_texts()
    assert cards == [
        "GPU에 들어가나",
        "학습하는 토큰",
        "가능성",
        "일수",
        "비용",
        "예상 손실",
        "가장 큰 제약",
    ]
    first, layout = (page.locator(s).first.bounding_box()["y"] for s in (".verdict", "details"))
    assert first < layout
    page.close()


def test_the_page_has_the_command_that_made_it(tmp_path, capsys):
    typed = ["plan", "hyperclovax_omni", "--layout", "own", "--html", str(tmp_path / "a b.html")]
    main(typed)
    assert (
        html.escape(shlex.join(["onnuri", *typed])).replace("&#x27;", "&#39;")
        in (tmp_path / "a b.html").read_text()
    )
