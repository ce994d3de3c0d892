"""The wheel works without the checkout."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from engine.simulation.scenes import generate_scene
from storage.formats.images import write_png
from tests.production.running import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parents[2]

TOML = """
[generator]
points_per_side = 4
crop_layers = 0
min_predicted_iou = 0.2
min_stability = 0.2
"""

LINK = re.compile(r"""(?:src=|href=|from |import )["']([^"':#$]+)["']""")
"""What a page or a module of it loads."""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and a folder to work in."""

    python: Path
    folder: Path

    def run(self, *command: str, folder: str = "") -> str:
        """The output of a program of the environment.

        Raises:
            AssertionError: it failed.
        """
        done = subprocess.run(
            [str(self.python.with_name(command[0])), *command[1:]],
            cwd=self.folder / folder,
            env=away(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def away() -> dict[str, str]:
    """The environment of a process that does not see the checkout."""
    return {name: value for name, value in environment().items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel alone is installed; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    programs = Path(sys.executable).parent
    build = ["make", "--assume-old", ".venv/.ready", "dist", f"BIN={programs}", f"DIST={folder}"]
    subprocess.run(build, cwd=CHECKOUT, env=away(), check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    made = Installed(folder / "venv" / "bin" / "python", folder)
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(made.python), "install"]
    subprocess.run([*pip, "--no-index", "--no-deps", wheel], cwd=folder, env=away(), check=True)
    paths = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    own = Path(sysconfig.get_path("purelib", vars=paths))
    # A path in a .pth file adds the packages there, not those that its own .pth files add.
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return made


@pytest.fixture(scope="module")
def generated(installed: Installed) -> dict[str, Any]:
    """The result of `generate` for two images in the workspace `ws`."""
    photos = installed.folder / "photos"
    photos.mkdir()
    for number in range(2):
        scene = generate_scene(number, (64, 64))
        (photos / f"{number}.png").write_bytes(write_png(scene.image_HWC))
    installed.run("dataengine", "init", "ws")
    (installed.folder / "ws" / "dataengine.toml").write_text(TOML)
    installed.run("dataengine", "ingest", str(photos), "--held-out", "0", folder="ws")
    found: dict[str, Any] = json.loads(
        installed.run("dataengine", "generate", "--json", folder="ws")
    )
    return found


@pytest.fixture(scope="module")
def page(installed: Installed, generated: dict[str, Any]) -> Iterator[str]:
    """URL of the workspace's annotation page."""
    log = installed.folder / "page.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(installed.python.with_name("dataengine")), "annotate", "--port", "0"],
            cwd=installed.folder / "ws",
            env=away(),
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                yield found[0]
                break
        else:
            raise AssertionError(log.read_text())
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_the_packages_are_those_of_the_wheel(installed: Installed) -> None:
    names = "engine", "storage", "flows"
    code = f"import importlib; [print(importlib.import_module(n).__file__) for n in {names}]"
    found = installed.run("python", "-P", "-c", code).split()
    assert [path.startswith(str(installed.folder / "venv")) for path in found] == [True] * 3


def test_masks_are_generated_in_a_new_workspace(generated: dict[str, Any]) -> None:
    assert generated["images"] == 2
    assert generated["masks"] > 0


def test_the_page_loads_with_all_its_scripts_and_styles(page: str) -> None:
    with httpx.Client(base_url=page, follow_redirects=True, timeout=30) as client:
        names = (
            "work",
            "guidelines",
            "team",
            "annotate",
            "review",
            "browse",
            "dashboard",
            "sign-in",
            "static/strings/en.json",
        )
        urls = [urljoin(page, name) for name in names]
        for url in urls:  # and everything that was loaded
            answer = client.get(url)
            assert answer.status_code == 200, url
            found = (urljoin(url, link) for link in LINK.findall(answer.text))
            urls += [link for link in dict.fromkeys(found) if link not in urls]
        served = {url.removeprefix(f"{page}static/") for url in urls if "/static/" in url}
        web = CHECKOUT / "engine" / "annotation" / "web"
        parts = {str(path.relative_to(web)) for path in web.rglob("*.[jc]s*")}
        assert served & parts == parts
        assert client.get("/api/guidelines").status_code == 200
