"""Takes the pictures of the README: the dashboard over a made-up lineage, wide and narrow, light and dark.

    python docs/dashboard/make_pictures.py

needs playwright and Chromium (HUB_FUSION_CHROMIUM names another one than the PATH has), about half a minute.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "benchmarks" / "dashboard"))
from lineages import BASE, lineage  # noqa: E402
from serving import serving, write_space  # noqa: E402

PICTURES = (  # file, address, width, height, scheme
    ("overview-light", "/", 1280, 940, "light"),
    ("lineage-dark", "/?show=lineage", 1280, 940, "dark"),
    ("analysis-light", "/?show=analysis", 1280, 940, "light"),
    ("overview-phone-dark", "/", 390, 844, "dark"),
)


def main() -> None:
    """Write every picture beside this file, with few colours, so that it is small."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        space = write_space(Path(folder) / "space", BASE, dict(lineage(14, 9)))
        path = shutil.which(os.environ.get("HUB_FUSION_CHROMIUM", "chromium"))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        with serving(space, BASE, "http://127.0.0.1:9") as served:
            for name, address, width, height, scheme in PICTURES:
                shot = picture(browser, served.url + address, width, height, scheme)
                small = Image.open(BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
                small.save(HERE / f"{name}.png", optimize=True)
        browser.close()


def picture(browser: Browser, url: str, width: int, height: int, scheme: str) -> bytes:
    """A PNG of what one screen shows, without the strip that says that the Hub is away."""
    tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    tab.goto(url)
    tab.locator("#dashboard h1").wait_for()
    tab.wait_for_timeout(1500)
    tab.wait_for_function("!document.querySelector('#fusion.busy, #fusion .busy')")
    tab.add_style_tag(content="#fusion .strip, #fusion .age { display: none; }")
    shot = tab.screenshot()
    tab.close()
    return shot


if __name__ == "__main__":
    main()
