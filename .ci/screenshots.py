"""Take the pictures in docs/ of the page that runs at an address: ``.venv/bin/python .ci/screenshots.py ADDRESS``."""

import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

DOCS = Path(__file__).resolve().parents[1] / "docs"
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-gpu"]


def main(address: str) -> None:
    """Ask the default question, at two widths."""
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=[*QUIET, *root])
        for width, height in ((1280, 800), (400, 1000)):
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address)
            page.get_by_role("button", name="Ask").click()
            expect(page.locator(".sources li").first).to_be_visible(timeout=30_000)
            target = DOCS / f"web-{width}.png"
            page.screenshot(path=target)
            Image.open(target).convert("RGB").quantize(64).save(target, optimize=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
