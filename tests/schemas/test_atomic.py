"""Files that are either whole or absent, whoever writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from schemas.atomic import write_once


def test_of_writers_with_one_process_number_the_first_one_s_content_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on two machines of a cluster that write to one folder."""
    path, link = tmp_path / "basis.npz", os.link

    def later(*given: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        write_once(path, b"of the one that is faster")
        link(*given)

    monkeypatch.setattr(os, "link", later)
    write_once(path, b"of the other one")
    assert path.read_bytes() == b"of the one that is faster"
    assert list(tmp_path.iterdir()) == [path]
