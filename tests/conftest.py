"""Fixtures that many tests share."""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch reads it

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def corpora():
    """Folder of the real corpora; the test skips where there is none."""
    folder = Path(os.environ.get("TEXTGAN_CORPORA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("needs the real corpora: set TEXTGAN_CORPORA to their folder")
    return folder


@pytest.fixture(autouse=True)
def as_torch_was():
    """Training flushes denormals and sets threads for its whole process; hypothesis refuses to work without them."""
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def no_waiting_for_the_disk():
    """Checkpoints are not flushed to the disk: it outlives these tests, and the wait is a third of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield
