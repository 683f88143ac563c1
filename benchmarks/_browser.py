"""HTML pages as PNG pictures, by a headless Chromium. What is not here: the pages (`_screens.py`)."""

import os
import shutil
from collections.abc import Iterable

from playwright.sync_api import sync_playwright

from benchmarks._screens import Screen

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_QUIET += ["--disable-component-update", "--disable-sync", *(["--no-sandbox"] if os.geteuid() == 0 else [])]


def rendered(screens: Iterable[Screen]) -> list[bytes]:
    """Render pages, each as a PNG of its size.

    Raises:
        RuntimeError: There is no Chromium.
    """
    if CHROMIUM is None:
        raise RuntimeError("Chromium is not installed; install the package chromium")
    files = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        page = browser.new_page()
        for screen in screens:
            width, height = screen.size
            page.set_viewport_size({"width": width, "height": height})
            page.set_content(screen.html)
            files.append(page.screenshot())
        browser.close()
    return files
