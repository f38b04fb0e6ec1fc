"""The report and the page of a run in a real browser: no error, every picture loads, every control works.

Skipped without Chromium (Debian: apt-get install chromium) or without playwright (extra ``browser``).
"""

from __future__ import annotations

import json
import shutil
import threading

import pytest
from PIL import Image

import neurobridge as nb
from neurobridge.api.view import serve
from neurobridge.data.images import ImageSet
from neurobridge.data.simulate import simulate
from neurobridge.pipeline.identification import gather_evidence
from neurobridge.pipeline.pictures import Chosen
from neurobridge.pipeline.reporting import report
from neurobridge.pipeline.scoring import closer
from neurobridge.pipeline.unit_views import unit_rows

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PATIENCE = 120_000  # ms: two busy cores are slow
SPLIT_TRIALS = 8 * 4

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[browser]'")
sync_api.expect.set_options(timeout=PATIENCE)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An aligned run of seconds, with its report."""
    sizes = {"images": 60, "test_images": 8, "test_repeats": 4, "valid_images": 12, "sessions": 1, "electrodes": 16}
    recordings = nb.open(simulate(tmp_path_factory.mktemp("pages") / "data", seed=3, **sizes))
    tiny = {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}
    model = nb.pretrain(
        recordings, steps=4, windows=16, groups=2, model=tiny, layer="block2", resolution=64, progress=False
    )
    model = nb.align(model, steps=2, joint_steps=0, windows=16, queries=2, hidden=16, progress=False)
    chosen = Chosen.of(model.folder)
    decoded = [chosen.decode(index) for index in chosen.wanted]
    evidence = gather_evidence(model.folder, decoded)[0]
    model.folder.save_arrays("evaluate/arrays.npz", **closer(model.folder, chosen, evidence))
    units = unit_rows(chosen.batcher.sessions, decoded)
    (model.path / "evaluate" / "results.json").write_text(json.dumps({"units": units}))
    model.folder.finish("evaluate")
    report(model.folder)
    assert (model.path / "report.html").stat().st_size < 15e6
    return model


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES.split(), timeout=PATIENCE)
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """A page that fails the test for any error on its console, and for any request to elsewhere."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request",
        lambda request: (
            None if request.url.startswith(("file:", "data:", "http://127.0.0.1:")) else wrong.append(request.url)
        ),
    )
    yield opened
    opened.close()
    assert not wrong


@pytest.fixture(scope="module")
def address(run):
    server = serve(run.path)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def unloaded(page) -> list[str]:
    """Pictures that did not load, or that nothing describes."""
    return page.eval_on_selector_all(
        "img", "all => all.filter(i => !i.complete || !i.naturalWidth || !i.alt).map(i => i.outerHTML.slice(0, 90))"
    )


def test_the_report_loads_folds_and_prints(run, page):
    page.goto((run.path / "report.html").as_uri())
    assert page.locator("main img").count() >= 7
    assert unloaded(page) == []
    options = page.locator("details", has=page.get_by_role("heading", name="Options"))
    table = options.locator("table")
    assert not table.is_visible()
    options.locator("summary").click()
    assert table.is_visible()
    options.locator("summary").press("Enter")
    assert not table.is_visible()
    page.emulate_media(media="print")
    assert table.is_visible()
    assert not page.locator("nav").is_visible()
    page.emulate_media(media="screen")
    page.get_by_role("link", name="Options").click()
    assert page.url.endswith("-options")
    for landmark in ("banner", "navigation", "main"):
        assert page.get_by_role(landmark).count() == 1
    assert page.get_by_role("columnheader").count() > 2
    assert page.get_by_role("rowheader").count() > 2


def test_the_report_is_light_and_dark_and_fits_a_phone(run, browser):
    seen = {}
    for scheme in ("light", "dark"):
        opened = browser.new_page(color_scheme=scheme, viewport={"width": 400, "height": 800})
        opened.goto((run.path / "report.html").as_uri())
        seen[scheme] = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert opened.evaluate("document.documentElement.scrollWidth") <= 400
        opened.close()
    assert seen["light"] == "rgb(255, 255, 255)"
    assert sum(map(int, seen["dark"][4:-1].split(","))) < 120


def test_every_control_of_the_page_works(run, page, address, tmp_path):
    page.goto(address)
    assert unloaded(page) == []
    heading = page.locator("h2").first
    assert heading.inner_text() == "monkeyA_1, test trial 0"
    before = page.locator("#spikes").get_attribute("src")

    page.get_by_role("combobox", name="Session").select_option("monkeyB_1")
    sync_api.expect(heading).to_have_text("monkeyB_1, test trial 0")
    page.get_by_role("link", name="next trial").click()
    sync_api.expect(heading).to_have_text("monkeyB_1, test trial 1")
    page.get_by_role("spinbutton", name="Trial").fill(str(SPLIT_TRIALS - 1))
    page.get_by_role("spinbutton", name="Trial").press("Tab")
    sync_api.expect(heading).to_have_text(f"monkeyB_1, test trial {SPLIT_TRIALS - 1}")
    assert page.get_by_role("link", name="next trial").count() == 0
    page.get_by_role("combobox", name="Split").select_option("valid")
    sync_api.expect(heading).to_have_text("monkeyB_1, valid trial 0")
    assert page.locator("#spikes").get_attribute("src") != before

    before = page.locator("#spikes").get_attribute("src")
    page.get_by_role("checkbox", name="V4").check()
    sync_api.expect(page.get_by_role("heading", name="without what is hidden")).to_have_count(1)
    assert page.locator("#spikes").get_attribute("src") != before
    page.get_by_role("checkbox", name="V4").uncheck()
    sync_api.expect(page.get_by_role("heading", name="without what is hidden")).to_have_count(0)
    unit = run.recordings.named("monkeyB_1")[0].unit_ids[0]
    page.get_by_role("listbox", name="Hide units").select_option(str(unit))
    sync_api.expect(page.get_by_role("heading", name="without what is hidden")).to_have_count(1)

    picture = tmp_path / "new.png"
    Image.fromarray(ImageSet.read(run.settings.data / "images.h5").pixels[3]).save(picture)
    page.get_by_role("textbox", name="Picture file").fill(str(picture))
    page.get_by_role("button", name="Show").click()
    sync_api.expect(page.get_by_role("heading", name="Expected response to new.png")).to_be_visible()
    assert page.locator("#response").evaluate("i => i.naturalWidth") > 500
    assert unloaded(page) == []
    page.get_by_role("textbox", name="Picture file").fill(str(tmp_path / "absent.png"))
    page.get_by_role("textbox", name="Picture file").press("Enter")
    sync_api.expect(page.get_by_role("alert")).to_contain_text("no picture at")
