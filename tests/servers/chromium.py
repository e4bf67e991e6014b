"""A real browser: Debian's chromium-headless-shell, driven by playwright, which downloads none of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.servers.programs import ServerUnavailable

if TYPE_CHECKING:
    from types import TracebackType

    from playwright.sync_api import Browser

__all__ = ["Chromium", "program"]

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def program(*, install: bool) -> str:
    """The browser.

    Args:
        install: Whether it may be installed, where that can be done.

    Raises:
        ServerUnavailable: This machine does not have it.
    """
    if install and not any(map(shutil.which, _NAMES)) and shutil.which("apt-get") and os.geteuid() == 0:
        packages = ("chromium-headless-shell", "fonts-liberation")
        for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", *command], check=False, capture_output=True, timeout=280)
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise ServerUnavailable("no Chromium on PATH (Debian: apt install chromium-headless-shell)")
    return found


class Chromium:
    """One browser; each test takes a context of its own, which knows no cookies.

        with Chromium() as browser:
            page = browser.new_context().new_page()

    Args:
        install: Whether the program may be installed.

    Raises:
        ServerUnavailable: This machine does not have it, or not playwright.
    """

    def __init__(self, *, install: bool = False) -> None:
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            raise ServerUnavailable("playwright is not installed: pip install playwright") from None
        self._program = program(install=install)
        self._playwright = sync_playwright()
        self._browser: Browser | None = None

    def __enter__(self) -> Browser:
        driver = self._playwright.start()
        # As root, and in containers, it has no sandbox and little shared memory.
        self._browser = driver.chromium.launch(
            executable_path=self._program, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        return self._browser

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._browser is not None:
            self._browser.close()
        self._playwright.__exit__(None, None, None)
