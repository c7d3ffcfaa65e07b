"""safetensors files: what is written is read back, and what strangers may send is refused."""

import json

import ml_dtypes
import numpy as np
import pytest

from t5sft import errors
from t5sft.convert import safetensors

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def arrays(seed=0):
    """One array of every dtype, of odd sizes; a scalar and an empty one."""
    rng = np.random.default_rng(seed)
    made = {}
    for i, (name, dtype) in enumerate(safetensors.DTYPES.items()):
        values = rng.integers(0, 2 if name == "BOOL" else 100, (i + 1, 3))
        made[f"model.{name}"] = values.astype(dtype)
    return made | {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 4), np.float16)}


def write(path, tensors):
    specs = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    safetensors.write(path, specs, tensors.__getitem__)


def assert_same(read, written):
    assert (read.dtype, read.shape) == (written.dtype, written.shape)
    assert read.tobytes() == written.tobytes()


def test_reads_what_it_wrote(tmp_path):
    written = arrays()
    write(tmp_path / "a.safetensors", written)
    header = safetensors.read_header(tmp_path / "a.safetensors")
    assert set(header) == set(written)
    for name, tensor in header.items():
        assert_same(safetensors.read(tensor), written[name])


def test_large_tensors_are_read_in_parallel_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors, "_PIECE_BYTES", 100)  # 41 pieces, the last of 4 bytes
    written = {"w": np.random.default_rng(0).normal(size=(501, 1)), "x": np.ones(3)}
    write(tmp_path / "a.safetensors", written)
    header = safetensors.read_header(tmp_path / "a.safetensors")
    for name, tensor in header.items():
        assert_same(safetensors.read(tensor), written[name])


def test_agrees_with_the_package_of_the_format(tmp_path):
    """Byte for byte, for the dtypes that the package takes from NumPy."""
    package = pytest.importorskip("safetensors.numpy")
    tensors = {k: v for k, v in arrays().items() if not k.startswith("model.F8")}
    write(tmp_path / "ours.safetensors", tensors)
    package.save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    ours = (tmp_path / "ours.safetensors").read_bytes()
    assert ours == (tmp_path / "theirs.safetensors").read_bytes()


GOOD = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]},
}


def pack(header, data=bytes(16), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def changed(**fields):
    return pack({**GOOD, "b": {**GOOD["b"], **fields}})


TWICE = json.dumps(GOOD)[:-1] + ', "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
NESTED_TWICE = json.dumps(GOOD).replace('"shape": [2]', '"shape": [2], "shape": [2]')
HOSTILE = {
    "empty file": (b"", r"has 0 bytes"),
    "header longer than the file": (pack(GOOD, length=10_000), r"claims 10000"),
    "header of 2^63 bytes": (pack(GOOD, length=2**63), r"claims 9223372036854775808"),
    "header not UTF-8": (pack(b'{"\xff\xfe": 1}'), r"no JSON"),
    "header not JSON": (pack(b"{'a': 1}"), r"no JSON"),
    "header nested too deeply": (pack(b"[" * 100_000), r"no JSON"),
    "header a list": (pack([GOOD]), r"a JSON list, not an object"),
    "header with an endless number": (pack(b'{"a": Infinity}'), r"no JSON"),
    "name twice": (pack(TWICE.encode()), r"'a' stands twice"),
    "field twice": (pack(NESTED_TWICE.encode()), r"'shape' stands twice"),
    "entry not an object": (pack({**GOOD, "b": [8, 16]}), r"entry of 'b' must have dtype"),
    "field missing": (pack({"a": {"dtype": "F32", "shape": [2]}}), r"entry of 'a' must have"),
    "unknown dtype": (changed(dtype="PICKLE"), r"unknown dtype 'PICKLE'"),
    "dtype not a text": (changed(dtype=["F32"]), r"unknown dtype"),
    "negative size": (changed(shape=[-2, -2]), r"'b' has no valid shape: \[-2, -2\]"),
    "size not a whole number": (changed(shape=[2.0, 2]), r"no valid shape"),
    "size true": (changed(shape=[True, 4]), r"no valid shape"),
    "size of 2^64": (changed(shape=[2**64, 0]), r"no valid shape"),
    "sizes that overflow": (changed(shape=[2**62, 4]), r"'b' is BF16 \[4611686018427387904, 4\]"),
    "thousands of dimensions": (changed(shape=[1] * 5000), r"no valid shape"),
    "offsets reversed": (changed(data_offsets=[16, 8]), r"no valid data_offsets"),
    "offsets negative": (changed(data_offsets=[-8, 0]), r"no valid data_offsets"),
    "one offset": (changed(data_offsets=[8]), r"no valid data_offsets"),
    "shape and length differ": (changed(shape=[2, 3]), r"'b' is BF16 \[2, 3\], 12 bytes, but 8"),
    "overlap": (changed(data_offsets=[4, 12]), r"'b' overlaps another"),
    "beyond the end": (pack(GOOD, data=bytes(15)), r"'b' reaches beyond the end"),
    "hole": (
        pack({**GOOD, "b": {**GOOD["b"], "data_offsets": [12, 20]}}, bytes(20)),
        r"4 bytes before 'b' belong to no tensor",
    ),
    "bytes at the end": (pack(GOOD, data=bytes(17)), r"last 1 bytes belong to no tensor"),
    "notes not texts": (pack({**GOOD, "__metadata__": {"x": {}}}), r"__metadata__"),
    "pickle": (b"\x80\x02}q\x00.", r"has 6 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case, tmp_path):
    content, message = HOSTILE[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(errors.CheckpointError, match=message) as caught:
        safetensors.read_header(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_header_of_more_than_100_megabytes_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(200_000_000)  # a sparse file
    with pytest.raises(errors.CheckpointError, match="100000001 bytes, more than 100000000"):
        safetensors.read_header(path)


def test_the_good_file_of_the_hostile_ones_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack(GOOD))
    tensors = safetensors.read_header(path)
    assert tensors["b"].dtype == ml_dtypes.bfloat16 and tensors["b"].shape == (2, 2)


def test_a_file_cut_while_it_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack(GOOD))
    tensors = safetensors.read_header(path)
    path.write_bytes(pack(GOOD)[:-4])
    with pytest.raises(errors.CheckpointError, match="shorter while it was read"):
        safetensors.read(tensors["b"])


def test_what_is_no_file_is_told(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("folder", "loop"):
        with pytest.raises(errors.CheckpointError, match=f"it cannot be read .*{name}; check"):
            safetensors.read_header(tmp_path / name)
