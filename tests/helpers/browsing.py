"""A real browser for pages: Debian's chromium, by Playwright."""

import os
import shutil
from contextlib import contextmanager

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# CI has to have it; elsewhere these are left out.
needs_browser = pytest.mark.skipif(BROWSER is None and not os.environ.get("CI"), reason="there is no chromium")


@contextmanager
def browsing():
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Root, as CI is, has no sandbox.
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def serious_faults(page) -> list[tuple[str, str]]:
    """What axe-core finds of accessibility that is serious or worse: its name, and the first element that has it."""
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in violations if one["impact"] in ("serious", "critical")]
