"""axe-core looks at every page: what it calls serious is not there. It comes from npm, and is kept outside of here."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from browsers import PAGES, needs_chromium, visiting

pytestmark = needs_chromium
PACKAGE = "axe-core@4.14.1"
CACHE = Path.home() / ".cache" / "hub_fusion-tests"


@pytest.fixture(scope="session")
def axe() -> str:
    """The script, fetched once for this machine."""
    if not (kept := CACHE / f"{PACKAGE}.js").is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip(f"npm is not installed, and {kept} is not there")
        CACHE.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [npm, "pack", PACKAGE, "--silent"], cwd=CACHE, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            pytest.skip(f"npm cannot fetch {PACKAGE}: {done.stderr[-300:]}")
        with tarfile.open(CACHE / done.stdout.strip().splitlines()[-1]) as packed:
            source = packed.extractfile("package/axe.min.js")
            assert source is not None
            part = kept.with_suffix(".part")
            part.write_bytes(source.read())
            part.rename(kept)
    return kept.read_text(encoding="utf-8")


@pytest.mark.parametrize(("scheme", "width", "state"), [("light", 1280, "golden"), ("dark", 390, "malformed")])
def test_axe_finds_nothing_serious(shown: Any, browser: Any, axe: str, scheme: str, width: int, state: str) -> None:
    """Names, roles, order and contrast, by the rules of WCAG 2.2 A and AA and by best practice."""
    with visiting(browser, shown(state), width=width, scheme=scheme) as visit:
        visit.open("/")
        visit.tab.add_script_tag(content=axe)
        found = {}
        for page in PAGES:
            visit.turn_to(page)
            visit.tab.evaluate("document.querySelectorAll('#dashboard details').forEach(d => { d.open = true })")
            result = visit.tab.evaluate("axe.run('#dashboard', {resultTypes: ['violations']})")
            found[page] = [(v["id"], n["html"][:160], n["failureSummary"]) for v in result["violations"]
                           if v["impact"] in ("serious", "critical") for n in v["nodes"][:3]]  # fmt: skip
        assert not any(found.values()), {page: f for page, f in found.items() if f}
