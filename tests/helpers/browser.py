"""Open a page in a headless Chromium, to see what a reader's browser makes of it."""

import os
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def _chromium(page, folder, *options):
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH")
    command = [
        found, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--hide-scrollbars", f"--user-data-dir={folder}", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--virtual-time-budget=2000", *options, page.resolve().as_uri(),
    ]  # fmt: skip
    # Its own home: no settings of the user's are read or written.
    env = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def dom(page, folder):
    """The document after loading, as HTML; `folder` is an empty one for the browser's own files.

    Text comes back with `<`, `>` and `&` escaped, so an element that should be text shows at once.
    """
    return _chromium(page, folder, "--dump-dom").stdout


def screenshot(page, out, folder, size=(1100, 900), dark=False):
    """Write what the page looks like to `out`, a .png file."""
    width, height = size
    options = [f"--screenshot={out}", f"--window-size={width},{height}"]
    if dark:
        options.append("--blink-settings=preferredColorScheme=0")
    _chromium(page, folder, *options)
    assert out.stat().st_size > 0
    return out
