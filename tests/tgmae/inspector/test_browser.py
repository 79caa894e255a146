"""The inspector in a real browser: every control does what it says, and axe finds nothing serious.

apt-get install chromium                                        # it is skipped where there is none
TGMAE_SCREENSHOTS=work/demo/workspace pytest tests/tgmae/inspector/test_browser.py    # `make screenshots`
"""

from __future__ import annotations

import io
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from schemas.events import EventLog
from schemas.workspace import Workspace
from tests.tgmae.inspector.conftest import TOKEN
from tgmae.inspector.drawn_clips import Clips
from tgmae.inspector.index_keeper import Keeper
from tgmae.inspector.known_objects import truth_folder
from tgmae.inspector.site import application
from tgmae.inspector.site_answers import Site
from tgmae.inspector.site_guard import Guard

sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DOCS = Path(__file__).resolve().parents[3] / "docs"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look with: apt-get install chromium"),
]


@contextmanager
def served(site: Guard) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(site, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(site: Guard) -> Iterator[str]:
    with served(site) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM)
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that was opened by the printed URL. What the browser complains of fails the test."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, permissions=["clipboard-read", "clipboard-write"], base_url=address
    )
    found, complaints = context.new_page(), []
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("console", lambda told: complaints.append(told.text) if told.type == "error" else None)
    found.set_default_timeout(10_000)
    found.goto(f"/?token={TOKEN}")
    yield found
    assert "owned" not in found.title()
    assert not [each for each in complaints if "422" not in each], complaints
    context.close()


def open_first(page: Any, query: str = "q=fast") -> None:
    page.goto(f"/?{query}")
    page.locator(".card").first.click()
    page.wait_for_selector("#strips canvas")


def changed(page: Any, selector: str, act: Callable[[], object], *, read: str = "e => e.textContent") -> str:
    """What the element says after `act`, which must change it."""
    before = page.locator(selector).evaluate(read)
    act()
    page.wait_for_function(f"([s, before]) => ({read})(document.querySelector(s)) !== before", arg=[selector, before])
    return str(page.locator(selector).evaluate(read))


def test_the_grid_is_searched_filtered_and_sorted(page: Any) -> None:
    def count() -> int:
        return int(re.match(r"[\d,]+", page.inner_text("#found"))[0].replace(",", ""))  # type: ignore[index]

    assert "token" not in page.url and count() == 15
    page.keyboard.press("/")
    page.keyboard.type("熊猫")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=*")
    assert count() == 1 and "<script>" in page.inner_text("#grid")
    page.click("text=Reset")
    for name, value, expected in (("split", "test", 6), ("label", "1", 7), ("coverage", "failed", 2)):
        page.goto("/")
        with page.expect_navigation():
            page.select_option(f"[name={name}]", value)
        assert count() == expected and page.input_value(f"[name={name}]") == value
    page.goto("/")
    with page.expect_navigation():
        page.select_option("[name=sort]", "entropy")
    assert page.is_checked("[name=order][value=down]")  # the sort's own end
    first = page.inner_text(".card >> nth=0")
    with page.expect_navigation():
        page.check("[name=order][value=up]")
    assert page.inner_text(".card >> nth=0") != first and "entropy" in first
    for show in ("map", "mask"):
        with page.expect_navigation():
            page.check(f"[name=show][value={show}]")
        assert f"show={show}" in page.get_attribute(".card img >> nth=0", "src")
    with page.expect_navigation():
        page.select_option("[name=guide]", "motion-vectors")
    assert "guide=motion-vectors" in page.get_attribute(".card img >> nth=0", "src")
    with page.expect_navigation():
        page.click("#worst")
    values = [float(each) for each in re.findall(r"overlap ([\d.]+)", page.inner_text("#grid"))]
    assert values == sorted(values) and len(values) > 10
    page.wait_for_function("() => [...document.querySelectorAll('.card img')].slice(0, 4).every(i => i.naturalWidth)")


def test_the_keyboard_goes_everywhere(page: Any) -> None:
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    focused = "document.activeElement.getAttribute('href')"
    second = page.evaluate(focused)
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) != second
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == second
    page.keyboard.press("Enter")
    page.wait_for_url("**/video/**")
    here = page.url
    page.keyboard.press("j")
    page.wait_for_url(lambda url: url != here)
    page.keyboard.press("k")
    page.wait_for_url(here)
    page.keyboard.press("?")
    assert page.is_visible("#shortcuts")
    page.keyboard.press("Escape")
    assert not page.is_visible("#shortcuts")
    for expected in ("light", "dark", None):
        page.click("#theme")
        assert page.evaluate("document.documentElement.dataset.theme ?? null") == expected


def test_the_player_and_its_map(page: Any) -> None:
    open_first(page)
    assert changed(page, "#time", lambda: page.locator("#scrub").evaluate(
        "e => { e.value = 12; e.dispatchEvent(new Event('input')) }")).startswith("frame 12")  # fmt: skip
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => document.querySelector('#time').textContent.startsWith('frame 11')")
    page.locator("#profile").click(position={"x": 2, "y": 20})
    page.wait_for_function("() => document.querySelector('#time').textContent.startsWith('frame 0')")
    assert page.evaluate("document.querySelector('#overlay').width") == 12
    changed(page, "#range", lambda: page.locator("[name=map]").nth(1).check())
    assert changed(page, "#overlay", lambda: page.uncheck("#show-map"), read="e => String(e.hidden)") == "true"
    page.locator("#main").focus()
    assert changed(page, "#overlay", lambda: page.keyboard.press("m"), read="e => String(e.hidden)") == "false"
    assert changed(page, "#overlay", lambda: page.locator("#strength").fill("20"), read="e => e.style.opacity") == "0.2"
    page.click("#play")
    page.wait_for_function("() => document.querySelector('#clip').currentTime > 0.1")
    page.wait_for_function("() => document.querySelector('#play').textContent === 'Pause'")
    page.click("#play")
    page.wait_for_function("() => document.querySelector('#play').textContent === 'Play'")


SEEN = "e => [...e.querySelectorAll('canvas')].map(c => c.toDataURL().length).join()"


def test_the_mask_follows_every_control(page: Any) -> None:
    open_first(page)
    hidden = "() => document.querySelector('#words').textContent"
    assert "10 of 16 patches" in page.evaluate(hidden)
    assert "12 of 16 patches" in changed(page, "#words", lambda: page.locator("[name=ratio]").fill("0.75"))
    for act in (
        lambda: page.select_option("[name=kind]", "bottom-k"),
        lambda: page.select_option("[name=kind]", "random"),
        lambda: page.locator("#mask [name=seed]").fill("9"),
        lambda: page.locator("#mask [name=epoch]").fill("7"),
        lambda: page.locator("#mask [name=repeat]").fill("3"),
        lambda: page.select_option("[name=crop]", "centre"),
        lambda: page.click("#next-draw"),
        lambda: page.select_option("[name=kind]", "top-k"),
        lambda: page.locator("[name=share]").fill("0.25"),
        lambda: page.select_option("#mask [name=guide]", "motion-vectors"),
        lambda: page.uncheck("#show-object"),
    ):
        changed(page, "#strips", act, read=SEEN)
    assert page.locator("[name=kind] option:disabled").all_inner_texts() == ["optical-flow"]
    page.select_option("#mask [name=guide]", "optical-flow")
    page.wait_for_function("() => document.querySelector('[name=kind]').value === 'optical-flow'")
    page.wait_for_function("() => document.querySelector('#histogram-text').textContent.includes('no cut-off')")
    page.select_option("#mask [name=guide]", "text-blip2")
    page.wait_for_function("() => document.querySelector('[name=entry]').options.length === 3")
    page.select_option("[name=kind]", "top-k")
    assert "bar " in changed(page, "#words", lambda: page.select_option("[name=entry]", "1"))
    changed(
        page,
        "#histogram-text",
        lambda: page.locator("#slice").fill("1"),
        read="e => e.textContent + e.previousElementSibling.innerHTML",
    )
    assert "cut" in page.inner_html("#histogram")
    changed(page, "#strips", lambda: page.select_option("[name=other]", "motion-vectors"), read=SEEN)
    page.wait_for_function("() => /IoU \\d/.test(document.querySelector('#difference-text').textContent)")
    assert page.locator("#strips canvas").count() == 6
    assert page.locator("#why li").count() >= 1


def test_the_mask_that_is_painted_is_the_trainers(page: Any) -> None:
    """Token by token, from the pixels of the canvas."""
    open_first(page)
    page.uncheck("#show-object")
    with page.expect_response("**/api/draw/**") as answered:
        page.locator("[name=ratio]").fill("0.5")
    drawn = answered.value.json()
    page.wait_for_function("() => document.querySelector('#words').textContent.startsWith('8 of 16')")
    (slices, rows, columns), size = drawn["shape"], drawn["size"]
    painted = page.evaluate(
        """([slices, rows, columns, size]) => {
            const canvas = document.querySelectorAll('#strips canvas')[2], context = canvas.getContext('2d');
            let found = '';
            for (let t = 0; t < slices; t++) for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) {
                const at = [t * (size + 6) + (x + 0.5) * size / columns, (y + 0.5) * size / rows];
                found += context.getImageData(...at, 1, 1).data.slice(0, 3).every((v) => v === 128) ? '1' : '0';
            }
            return found;
        }""",
        [slices, rows, columns, size],
    )
    assert painted == drawn["hidden"]


def test_a_run_is_looked_into(page: Any) -> None:
    page.goto("/runs")
    page.click("h2 a")
    page.wait_for_selector("#charts svg")
    assert page.locator("#charts figure").count() == 5
    changed(page, "#charts", lambda: page.check("#log"), read="e => e.innerHTML")
    page.wait_for_function("() => document.querySelectorAll('#weights img').length >= 2")
    said = "e => [...e.querySelectorAll('img')].map(i => i.src).join()"
    changed(page, "#weights", lambda: page.select_option("[name=statistics]", "true"), read=said)
    changed(page, "#weights", lambda: page.select_option("[name=key]", index=2), read=said)
    chosen = page.locator("[name=neighbours] option").nth(2).get_attribute("value")
    page.select_option("[name=neighbours]", chosen)
    page.wait_for_url(f"**neighbours={chosen}")
    assert page.locator(".confusion td.right").count() == 2


def test_failures_are_chosen_and_their_commands_copied(page: Any) -> None:
    page.goto("/failures")
    assert page.locator(".failures li").count() == 2
    page.click("text=TooTall >> nth=0")
    page.wait_for_url("**error=TooTall")
    assert page.locator(".failures li").count() == 1
    page.click(".copy")
    page.wait_for_function("() => document.querySelector('.copy').textContent === 'Copied'")
    assert "tgmae guide" in page.evaluate("navigator.clipboard.readText()")


def test_a_running_job_appears_as_it_goes(page: Any, trained: Workspace) -> None:
    page.goto("/activity")
    log = EventLog(trained.root, "guide")
    log.write("begin", total=40, done=0, unit="video")
    log.write("progress", done=11, total=40)
    log.write("failure", video="a.mp4", error="Odd", message="<b>why</b>")
    page.wait_for_function("() => document.querySelector('#jobs').textContent.includes('11 of 40 videos')")
    page.wait_for_function("() => document.querySelector('#live').textContent === 'guide: 11 of 40'")
    assert "<b>why</b>" in page.inner_text("#events")
    log.write("end", status="done", done=40, seconds=1.0)
    page.wait_for_function("() => document.querySelector('#jobs').textContent.includes('done')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious_and_nothing_is_cut_off(page: Any, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/?q=fast")
    video = page.get_attribute(".card >> nth=0", "href")
    for path in ("/?show=mask&sort=iou", video, "/runs", "/run/pretrain", "/failures", "/activity"):
        page.goto(path)
        page.wait_for_load_state("networkidle") if path.startswith("/run") else page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is wider than the screen"
        found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [(each["id"], [node["html"][:160] for node in each["nodes"]]) for each in found
                   if each["impact"] in ("serious", "critical")]  # fmt: skip
        assert not serious, (path, serious)


@pytest.mark.skipif("TGMAE_SCREENSHOTS" not in os.environ, reason="TGMAE_SCREENSHOTS names no workspace to picture")
def test_screenshots_for_the_docs(browser: Any, tmp_path: Path) -> None:
    """docs/inspector-*.png, of the workspace that TGMAE_SCREENSHOTS names; the worst mask, and why."""
    workspace = Workspace(Path(os.environ["TGMAE_SCREENSHOTS"]))
    clips = Clips(workspace)
    keeper = Keeper(workspace, clips, truth=truth_folder(workspace), path=tmp_path / "index.sqlite")
    keeper.start()
    assert keeper.ready.wait(300)
    while keeper.measured()[0] < keeper.measured()[1]:
        time.sleep(0.5)
    guard = Guard(application(Site(workspace, clips, keeper)), token=TOKEN, hosts=("127.0.0.1",), port=80)
    with served(guard) as address:
        for name, scheme, width, height in (("desktop", "light", 1280, 860), ("dark", "dark", 1280, 860),
                                            ("phone", "light", 390, 844)):  # fmt: skip
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme,
                                          base_url=address)  # fmt: skip
            view = context.new_page()
            view.goto(f"/?token={TOKEN}")
            view.click("#worst")
            view.wait_for_load_state("networkidle")
            _keep(view.screenshot(), DOCS / f"inspector-worst-{name}.png")
            view.locator(".card").first.click()
            view.wait_for_selector("#strips canvas")
            if name != "desktop":
                view.evaluate("document.querySelector('#mask').scrollIntoView()")
            view.wait_for_timeout(1500)
            _keep(view.screenshot(), DOCS / f"inspector-video-{name}.png")
            context.close()
    keeper.stop()


def _keep(png: bytes, path: Path) -> None:
    """In 256 colours: small enough for a repository."""
    from PIL import Image

    Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(path, optimize=True)
    assert path.stat().st_size < 200_000, f"{path} has {path.stat().st_size} bytes"
