"""Converting needs little more memory than one file: a small twin of scripts/bench/convert.py."""

import importlib.util
import pathlib

import pytest

BENCH = pathlib.Path(__file__).resolve().parents[2] / "scripts/bench/convert.py"


@pytest.mark.slow
def test_peak_memory_of_a_checkpoint_in_and_out(tmp_path):
    """1.7 GB in files of 0.5 GB: whoever holds it whole needs 1.7 GB, or 3.5 GB in float32."""
    spec = importlib.util.spec_from_file_location("bench_convert", BENCH)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    result = bench.measure(tmp_path / "run", layers=16, scale=0.5, shard_bytes=500_000_000)
    assert result["is_same"]
    assert result["checkpoint_bytes"] > 1.5e9
    for way in ("in", "out"):
        assert result[way]["peak_bytes"] < min(result["allowed_bytes"], 1.2e9), result
