"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def corpora():
    """Folder of the real corpora; the test skips where there is none."""
    folder = Path(os.environ.get("TEXTGAN_CORPORA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("needs the real corpora: set TEXTGAN_CORPORA to their folder")
    return folder
