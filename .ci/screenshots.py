"""Take the pictures in docs/: ``.venv/bin/python .ci/screenshots.py ADDRESS``, or with a report.html in its place.

ADDRESS is that of the demo's page, which is asked a question; ``report.html`` is a report of ``nanogpt compare``.
"""

import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

DOCS = Path(__file__).resolve().parents[1] / "docs"
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-gpu"]


def main(address: str) -> None:
    """Take a picture at two widths of the window."""
    name = "compare" if address.endswith(".html") else "web"
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=[*QUIET, *root])
        for width, height in ((1280, 800), (400, 1000)):
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(Path(address).resolve().as_uri() if name == "compare" else address)
            if name == "web":
                page.get_by_role("button", name="Ask").click()
                expect(page.locator(".sources li").first).to_be_visible(timeout=30_000)
            target = DOCS / f"{name}-{width}.png"
            page.screenshot(path=target)
            Image.open(target).convert("RGB").quantize(64).save(target, optimize=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
