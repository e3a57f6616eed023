"""A headless browser for the page: started once, watched for errors, cut off from every network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from longshort.byhand import Exercise

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@contextmanager
def browser() -> Iterator[Any]:
    """A browser for all tests of a module; where there is none, they are skipped, and say so."""
    api = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
    if not CHROMIUM:
        pytest.skip("the page's tests need Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


class Opened:
    """The page in a tab of its own, with what it did that it should not have done."""

    def __init__(self, browser: Any, path: Path, width: int = 1440, theme: str = "light", **context: Any):
        self.path, self.complaints = path, []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce", **context
        )
        self.context.route("**/*", self.only_files)
        self.tab = self.context.new_page()
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(path.as_uri())
        self.tab.wait_for_function("window.longshort?.ready > 0")

    def only_files(self, route: Any) -> None:
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            self.complaints.append(f"asked the network for {route.request.url}")
            route.abort()

    def ask(self, script: str, given: Any = None) -> Any:
        """What a function of the page gives."""
        return self.tab.evaluate(script, given)

    def show(self, name: str, step: int = 1, mode: str = "step") -> None:
        self.ask("([name, step, mode]) => longshort.open(name, step, mode)", [name, step, mode])

    def exercise(self) -> Exercise:
        """The exercise at hand, as the page would save it."""
        return Exercise.from_dict(self.ask("() => longshort.exercise()"))

    def numbers(self, *decimals: int | None) -> dict[tuple[str, int, tuple[int, ...]], float]:
        """Every number the page has worked out; by the sheet's own rounding, if no other is given."""
        found = self.ask("(decimals) => longshort.numbers(...decimals)", list(decimals))
        spelt = {"Infinity": "inf", "-Infinity": "-inf", "NaN": "nan"}
        return {(name, t, tuple(index)): float(spelt.get(value, value)) for name, t, index, value in found}

    def close(self) -> None:
        self.context.close()
        assert not self.complaints, self.complaints


@contextmanager
def opened(browser: Any, path: Path, **how: Any) -> Iterator[Opened]:
    """A page, opened from its file; afterwards it must have had nothing to complain of, and asked no network."""
    page = Opened(browser, path, **how)
    yield page
    page.close()
