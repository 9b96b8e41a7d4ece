"""The dashboard as people run it: started by the command, over a real Hub, looked at by a real browser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import needs_chromium
from dashboards import BASE, Dashboard, Start, read_golden, upload

from hub_fusion.cli.space import dashboard
from hub_fusion.local_hub import LocalHub

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def running(start: Start, hub: LocalHub, acme: Any) -> Iterator[Dashboard]:
    """The dashboard of the golden lineage, with a stranger's code among its texts."""
    golden = read_golden()
    hostile = "${document.body.dataset.owned=1} \\x3cimg src\\x3dx onerror\\x3ddocument.body.dataset.owned\\x3d1\\x3e"
    golden.records[3]["refusals"][0]["reason"] = hostile + "<img src=x onerror=document.body.dataset.owned=1>"
    upload(acme, BASE, golden)
    with start(BASE, hub.url) as dashboard:
        yield dashboard


def test_the_command_serves_what_the_hub_holds(running: Dashboard) -> None:
    """The first page holds the data already; no endpoint is open to callers, no file can be fetched."""
    config = running.get("/config")
    for said in (BASE, "alice/roberta-fused-anli", "What went into gen-3", "copies do not count twice"):
        assert said in config
    info = json.loads(running.get("/gradio_api/info"))
    assert info == {"named_endpoints": {}, "unnamed_endpoints": {}}
    with pytest.raises(OSError, match="403"):
        running.get("/gradio_api/file=app.py")
    assert running.seconds < 30


def test_a_dead_hub_does_not_delay_the_start(start: Start, running: Dashboard) -> None:
    """The page is there all the same and says that the Hub does not answer. The margin is for a busy machine."""
    with start(BASE, "http://127.0.0.1:9") as alone:
        assert "The Hub does not answer" in alone.get("/config")
        assert alone.seconds < running.seconds + 5


@needs_chromium
def test_the_page_fits_and_asks_nobody_else(running: Dashboard, browser: Any) -> None:
    """On a phone and a desk, light and dark: the data, no horizontal overflow, no foreign request, nobody's code."""
    for width in (390, 1280):
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            asked: list[str] = []
            errors: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            page.goto(running.url + "/?gen=gen-3")
            page.get_by_role("heading", name="What went into gen-3").wait_for()
            page.get_by_text("alice/roberta-fused-anli").wait_for()
            page.get_by_text("${document.body.dataset.owned=1}").wait_for()
            assert page.evaluate("document.body.dataset.owned") is None
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert page.evaluate("document.body.classList.contains('dark')") is (scheme == "dark")
            assert page.locator("h1").all_inner_texts() == ["gen-3"]
            assert {url.split("/")[2] for url in asked if "://" in url} == {running.url.split("/")[2]}
            assert not errors
            if folder := os.environ.get("HUB_FUSION_SCREENSHOTS"):
                page.screenshot(path=f"{folder}/dashboard-{width}-{scheme}.png", full_page=True)
            page.close()
    page = browser.new_page()
    page.goto(running.url)
    page.locator("svg a").nth(1).focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="What went into gen-1").wait_for()
    assert page.url.endswith("?gen=gen-1")
    page.go_back()
    page.get_by_role("heading", name="What went into gen-3").wait_for()
    page.close()


def test_the_readme_names_the_command(running: Dashboard) -> None:
    """README's block is the command that the other tests start, and it exists."""
    section = (ROOT / "README.md").read_text().split("## Look at it")[1].split("\n## ")[0]
    command = section.split("```bash\n")[1].splitlines()[0].partition("#")[0].split()
    assert command == ["hub-fusion", "space", "serve", "acme/base", "--port", "7860"]
    done = subprocess.run(
        [Path(sys.executable).with_name("hub-fusion"), *command[1:3], "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--port" in done.stdout


def test_the_space_travels_in_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As hub_fusion/dashboard, with its templates; nothing called spaces is installed that gradio would import."""
    backend = pytest.importorskip("hatchling.build", reason="hatchling is not installed")
    monkeypatch.chdir(ROOT)
    names = set(zipfile.ZipFile(tmp_path / backend.build_wheel(str(tmp_path))).namelist())
    files = [p for p in dashboard().rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    packed = {f"hub_fusion/dashboard/{path.relative_to(dashboard())}" for path in files}
    assert {name for name in names if "dashboard/" in name} == packed
    assert not [name for name in names if name.startswith("spaces")]


def test_an_editable_install_exposes_the_package_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds a finder for hub_fusion and no file of the dashboard, which would hide the package."""
    backend = pytest.importorskip("hatchling.build", reason="hatchling is not installed")
    pytest.importorskip("editables", reason="editables is not installed")
    monkeypatch.chdir(ROOT)
    wheel = zipfile.ZipFile(tmp_path / backend.build_editable(str(tmp_path)))
    assert not [name for name in wheel.namelist() if "dashboard" in name or name.startswith("hub_fusion/")]
    finder = next(name for name in wheel.namelist() if name.endswith(".py"))
    assert re.findall(r"map_module\('(\w+)'", wheel.read(finder).decode()) == ["hub_fusion"]


def test_gradio_does_not_find_our_folder_as_a_package() -> None:
    """gradio imports a package called spaces where there is one; ours, a namespace package, would break its events."""
    code = "import importlib.util as u; spec = u.find_spec('spaces'); print(spec and spec.submodule_search_locations)"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(ROOT / "spaces") not in done.stdout
