import contextlib
import io
import json
import types

import pytest

from t5sft import errors
from t5sft.train import manifest


@pytest.fixture
def sealed(tmp_path):
    for name, content in {"a": b"123", "d/b": bytes(range(256)) * 100, "d/e/empty": b""}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    manifest.seal(tmp_path)
    return tmp_path


def test_says_size_and_digest_of_every_file(sealed):
    files = json.loads((sealed / "manifest.json").read_text())["files"]
    assert list(files) == ["a", "d/b", "d/e/empty"]
    # What the specification of XXH3 gives for no bytes at all.
    digest = "99aa06d3014798d86001c324468d497f"
    assert files["d/e/empty"] == {"bytes": 0, "xxh3": digest}
    assert files["a"]["bytes"] == 3 and files["a"]["xxh3"] != digest


def test_refuses_a_manifest_of_another_format(sealed):
    content = json.loads((sealed / "manifest.json").read_text())
    (sealed / "manifest.json").write_text(json.dumps(content | {"format": 1}))
    with pytest.raises(errors.CheckpointError, match="of format 1, this t5sft reads 2"):
        manifest.find_damage(sealed)


def test_finds_nothing_wrong_with_what_it_sealed(sealed):
    assert manifest.find_damage(sealed) is None


@pytest.mark.parametrize("place", [0, 12_345, 25_599])
def test_finds_one_flipped_bit(sealed, place):
    content = bytearray((sealed / "d/b").read_bytes())
    content[place] ^= 1
    (sealed / "d/b").write_bytes(content)
    assert manifest.find_damage(sealed) == ("d/b has changed: its XXH3 is not the recorded one")


def test_finds_files_cut_short_missing_or_added(sealed):
    (sealed / "a").write_bytes(b"12")
    assert manifest.find_damage(sealed) == "a has 2 bytes, its manifest says 3"
    (sealed / "new").write_bytes(b"")
    assert manifest.find_damage(sealed).startswith("new is not in the manifest")
    (sealed / "d/e/empty").unlink()
    assert manifest.find_damage(sealed) == "d/e/empty is missing"


def test_blames_the_manifest_for_its_own_damage(sealed):
    path = sealed / "manifest.json"
    text = path.read_text()
    for place in range(0, len(text), 7):
        changed = bytearray(text.encode())
        changed[place] ^= 1
        path.write_bytes(changed)
        damage = manifest.find_damage(sealed)
        # White space and the like may change without changing what it says.
        assert damage is None or damage.startswith("manifest.json has changed"), damage
    path.unlink()
    assert manifest.find_damage(sealed).startswith("manifest.json is missing")


def test_ignores_what_orbax_writes_after_the_seal(sealed):
    (sealed / "commit_success.txt").write_text("at 10:30")
    (sealed / "_CHECKPOINT_METADATA").write_text("{}")
    assert manifest.find_damage(sealed) is None


def test_reads_buckets_that_only_read(tmp_path):
    """GFile, by which etils opens gs://, has no readinto: no such checkpoint could be read."""
    content = bytes(range(256)) * 4096
    (tmp_path / "file").write_bytes(content)

    class Bucket:
        def open(self, mode):
            opened = io.BytesIO(content)
            plain = types.SimpleNamespace(read=opened.read)
            return contextlib.nullcontext(plain)

    assert manifest._entry(Bucket()) == manifest._entry(tmp_path / "file")
    assert manifest._entry(Bucket())["bytes"] == 1 << 20


def test_small_and_large_files_may_be_hashed_apart(tmp_path):
    for name, size in {"a": 1 << 20, "b": (1 << 20) + 1, "c": 3 << 20}.items():
        (tmp_path / name).write_bytes(bytes(size))
    manifest.seal(tmp_path)
    for name in "abc":
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(b"1" + content[1:])
        found = [manifest.find_damage(tmp_path, large=large) for large in (False, True, None)]
        assert [x and x[0] for x in found] == [
            *((name, None) if name == "a" else (None, name)),
            name,
        ]
        (tmp_path / name).write_bytes(content)


def test_hosts_share_the_reading(sealed):
    (sealed / "d/b").write_bytes(b"\0" * 25_600)
    found = [manifest.find_damage(sealed, part=part, parts=3) for part in range(3)]
    assert [damage is not None for damage in found] == [False, True, False]
