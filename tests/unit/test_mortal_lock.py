"""The locks of a worker's pool lie on files, and what cleans /tmp takes no file that is in use."""

import os
import time
from pathlib import Path

import pytest

from shared.celery_sqs.pool import MortalLock


def test_a_lock_that_is_used_never_looks_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lock = MortalLock()
    (file,) = tmp_path.iterdir()
    os.utime(file, (0, 0))

    with lock:
        pass

    assert time.time() - file.stat().st_mtime < 3600
