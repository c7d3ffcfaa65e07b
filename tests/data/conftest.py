"""What several tests of preparing share."""

import dataclasses

import pytest
from toy_data import TOY, write_rows


@pytest.fixture
def data(tmp_path):
    """Settings over a file of one's own."""
    file = write_rows(tmp_path / "rows.json", [("ask", "answer")])
    return dataclasses.replace(TOY, task="toy_file", data=file, cache_dir=str(tmp_path / "cache"))
