"""A cache of its own for each test, so that none finds what the user or another test has downloaded."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.delenv("INVERTIBLE_DATA_DIR", raising=False)
    monkeypatch.setattr("invertible.data.places.cache_dir", lambda: folder)
    return folder
