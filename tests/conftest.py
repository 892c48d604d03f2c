"""What every browser test shares."""

import os

import pytest

from tests.editor.canvas.bench import CHROMIUM, FLAGS
from tests.serving import serving


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, one for all tests of a process; each opens contexts of its own. Where there is none, a CI run fails and
    any other skips."""
    if not CHROMIUM.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{CHROMIUM} is missing, and a CI run must not skip the browser")
        pytest.skip(f"{CHROMIUM} is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def page_server(tmp_path_factory):
    """The whole page, served for every test that takes it as it is; its work lies in ``work`` beside its log."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, "--workdir", str(folder / "work")) as running:
        yield running
