"""Folders with any name that the system allows, also in paths that become URLs."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from sqlalchemy import make_url
from typer.testing import CliRunner

from flows.cli.main import app
from flows.prefect_api.temporary_server import database_of_home
from flows.services.definitions import s3
from flows.workspace.settings import FILE_NAME, WorkspaceError, create_workspace, load_settings
from storage.catalog import Catalog
from storage.local_store import LocalStore
from storage.masks import MaskTable
from storage.objects import StorageError

ODD = [
    "my ws",
    "a#b?c=d&e",
    "100% +;,@:!$",
    "~ 'single' \"double\" `back`",
    "{x} (y) <z> *",
    "ümläut 猫 e\u0301 \u2028",
    " spaces ",
    "..x",
    "x" * 200,
]
"""Names that all parts take."""
ESCAPED = ["my%20ws", "%2e%2e", "a%2Fb", "%ff", "[2024]", "a|b^c", "back\\slash", "new\nline\t\x7f"]
"""Names that deltalake does not take."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("name", ODD)
def test_masks_lie_in_the_folder_that_is_named(tmp_path: Path, name: str) -> None:
    home = tmp_path / "in"
    home.mkdir()
    table = MaskTable(LocalStore(home / name))
    table.commit([], run_id="r", shard=0)
    assert MaskTable(LocalStore(home / name)).committed("r", 0)
    assert (home / name / "masks" / "_delta_log").is_dir()
    assert names(home) == [name]


@pytest.mark.parametrize("name", ODD + ESCAPED)
def test_catalogs_and_prefects_database_have_the_path_of_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = create_workspace(tmp_path / name)
    settings = load_settings(root)
    assert make_url(settings.catalog_url).database == str(root / "catalog.db")
    assert "://" not in settings.store.uri
    monkeypatch.setenv("PREFECT_HOME", str(root / ".prefect"))
    for variable in [name for name in os.environ if "DATABASE_CONNECTION_URL" in name]:
        monkeypatch.delenv(variable)
    plain = f"sqlite+aiosqlite:///{root}/.prefect/prefect.db"  # Prefect's own choice
    url = database_of_home().get("PREFECT_SERVER_DATABASE_CONNECTION_URL", plain)
    assert make_url(url).database == str(root / ".prefect" / "prefect.db")


def test_folders_whose_names_decode_to_each_other_have_their_own_catalogs(tmp_path: Path) -> None:
    for name in ("my ws", "my%20ws", "my%2520ws"):
        root = create_workspace(tmp_path / name)
        with Catalog(load_settings(root).catalog_url) as catalog:
            catalog.migrate()
            assert catalog.datasets.all() == []
            catalog.datasets.get_or_create(name)
    assert names(tmp_path) == sorted(["my ws", "my%20ws", "my%2520ws"])


@pytest.mark.parametrize("name", ESCAPED)
def test_where_masks_cannot_lie_the_store_is_made_elsewhere_and_named(
    tmp_path: Path, data_home: Path, name: str
) -> None:
    root = create_workspace(tmp_path / "in" / name)
    store = LocalStore(Path(load_settings(root).store_uri))
    assert store.root.is_relative_to(data_home / "dataengine")
    MaskTable(store).commit([], run_id="r", shard=0)
    assert MaskTable(store).committed("r", 0)
    assert names(tmp_path / "in") == [name]
    again = create_workspace(tmp_path / "in" / name)
    assert load_settings(again).store_uri == str(store.root)
    with pytest.raises(StorageError, match="deltalake takes no"):
        MaskTable(LocalStore(root / "store"))


def test_init_says_where_the_store_is_when_it_is_elsewhere(tmp_path: Path, data_home: Path) -> None:
    result = CliRunner().invoke(app, ["init", str(tmp_path / "my%20ws [b]")])
    assert result.exit_code == 0
    told = result.output.replace("\n", "")
    assert f"{data_home}/dataengine/my_20ws_b_-" in told
    assert "my%20ws [b]' && dataengine ingest" in told
    toml = tomllib.loads((tmp_path / "my%20ws [b]" / FILE_NAME).read_text())
    assert Path(toml["store"]["uri"]).is_dir()


def test_a_path_that_is_not_utf_8_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"raw\xff")
    with pytest.raises(WorkspaceError, match="not UTF-8"):
        create_workspace(root)
    assert not root.exists()


def test_a_comma_in_the_path_does_not_make_two_folders_of_the_services_one(tmp_path: Path) -> None:
    root = create_workspace(tmp_path / "a,b")
    (folder,) = [word for word in s3(root, 1, ("a", "b" * 40)).command if word.startswith("-dir=")]
    assert "," not in folder
    assert (root / folder.removeprefix("-dir=")).is_dir()
