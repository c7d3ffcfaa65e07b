"""Files of strangers: no pickle is opened, no archive unpacked, no link followed, no bomb explodes.

Each canary is a file that the hostile one would write or remove if anything in it were run.
"""

import ast
import contextlib
import io
import json
import os
import pathlib
import pickle
import shutil
import tarfile
import time
import zipfile

import msgpack
import numpy as np
import pytest
from oracles import checkpoints, vocabularies

from t5sft import errors, paths
from t5sft.convert import describe, foreign, huggingface, special
from t5sft.data import cache, files, preprocess, templates, vocab
from t5sft.data.preparing import parts
from t5sft.train import checkpoint, manifest, places, start

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Canary:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(Canary(path)))  # it would tell
    assert path.exists()
    path.unlink()
    yield path
    assert not path.exists()


@pytest.fixture
def split(tmp_path):
    """A small cache of a split."""
    tokens = preprocess.Tokens([5, 6, 1], [1.0, 1.0, 1.0], [3, 3, 3])
    example = preprocess.Example(preprocess.Tokens([], [], []), tokens)
    directory = tmp_path / "split"
    cache.write_task(directory / "t", [example], [0])
    cache.write_card(directory, {"tasks": {"t": {"content": "x", "rate": 1.0}}})
    assert cache.read_split(directory).tasks["t"].get(0).targets.ids.tolist() == [5, 6, 1]
    return directory


COLUMNS = ("targets.ids", "targets.offsets", "numbers", "units", "labels")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_pickle_in_an_array_of_the_cache(split, canary, column):
    """.npy files of Python objects are pickles."""
    np.save(split / "t" / f"{column}.npy", np.array([Canary(canary)] * 3, object))
    with pytest.raises(errors.DataError, match="damaged: .*allow_pickle=False"):
        cache.read_split(split)
    (split / "t" / f"{column}.npy").write_bytes(pickle.dumps(Canary(canary)))  # no header at all
    with pytest.raises(errors.DataError, match="damaged"):
        cache.read_split(split)


def header(shape):
    """A .npy file that claims a shape and holds eight bytes."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": "<i4", "fortran_order": False, "shape": shape}
    )
    return out.getvalue() + bytes(8)


@pytest.mark.parametrize("shape", [(1 << 60,), (1 << 31, 1 << 31), (-1,), (3,), (1 << 70,)])
def test_an_array_that_claims_more_than_it_has(split, shape):
    (split / "t" / "targets.ids.npy").write_bytes(header(shape))
    with pytest.raises(errors.DataError, match="damaged"):
        cache.read_split(split)


def test_a_pickle_in_a_part_of_the_cache(tmp_path, canary):
    """A part that a killed process left is read again; one that is no part is made again."""
    path = tmp_path / "0.npz"
    about = np.frombuffer(b'{"counts": {}, "groups": []}', np.uint8)
    np.savez(path, about=about, numbers=np.array([Canary(canary)], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        parts.read(path)
    np.savez(path, about=np.array([Canary(canary)], object))
    assert parts.read_counts(path) is None
    path.write_bytes(pickle.dumps(Canary(canary)))
    assert parts.read_counts(path) is None


def test_pickles_among_weights(tmp_path, canary):
    torch = io.BytesIO()  # what torch.save writes: a zip with a pickle
    with zipfile.ZipFile(torch, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Canary(canary)))
    for name in ("pytorch_model.bin", "model.pt", "model.pth", "x.ckpt", "flax_model.msgpack"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(checkpoints.FOLDER / "llama" / "config.json", folder)
        for content in (pickle.dumps(Canary(canary)), torch.getvalue()):
            (folder / name).write_bytes(content)
            with pytest.raises(errors.CheckpointError, match="unpickling runs any code"):
                foreign.open_any(folder)
            (folder / "model.safetensors").write_bytes(content)
            with pytest.raises(errors.CheckpointError, match=r"model\.safetensors"):
                foreign.open_any(folder)
            (folder / "model.safetensors").unlink()


def test_objects_in_a_t5x_checkpoint(tmp_path, canary):
    packed = msgpack.packb(([1], b"object", pickle.dumps(Canary(canary))))
    for dtype in (b"object", b"O", b"V8", b"not a type"):
        packed = msgpack.packb(([1], dtype, pickle.dumps(Canary(canary))))
        tree = {"state": {"step": 1}, "target": {"x": msgpack.ExtType(1, packed)}}
        (tmp_path / "checkpoint").write_bytes(msgpack.packb({"version": 3, "optimizer": tree}))
        with pytest.raises(errors.CheckpointError):
            foreign.open_any(tmp_path)


FORBIDDEN = {  # what is never called; a sandboxed program is the one exception
    "eval", "exec", "compile", "__import__", "execfile",
    "pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "torch",
    "tarfile", "unpack_archive", "extractall", "zipfile.ZipFile",
    "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load",
}  # fmt: skip


def called(tree):
    """Names and last two parts of whatever a module calls or imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            yield from (part for name in names for part in name.split("."))
            yield from (getattr(node, "module", "") or "").split(".")
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            yield name
            yield ".".join(name.split(".")[-2:])
            for keyword in node.keywords:
                if keyword.arg in ("allow_pickle", "shell"):
                    yield f"{keyword.arg}={ast.unparse(keyword.value)}"


def test_our_own_code_opens_no_pickle_and_unpacks_no_archive():
    """So no slip of names in a zip or tar file is possible; NumPy's .npz is read by member."""
    found = {}
    for top in ("t5sft", "tasks"):
        for path in sorted((ROOT / top).rglob("*.py")):
            names = set(called(ast.parse(path.read_text())))
            bad = names & {*FORBIDDEN, "allow_pickle=True", "shell=True"}
            if bad:
                found[str(path.relative_to(ROOT))] = sorted(bad)
    assert found == {"t5sft/evaluate/sandbox_child.py": ["compile", "exec"]}


def slip(path, kind, name):
    """An archive whose member would be written beside the folder it is unpacked in."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"../{name}", "slipped")
            archive.writestr(f"/{path.parent}/{name}", "slipped")
    else:
        with tarfile.open(path, f"w{kind}") as archive:
            member = tarfile.TarInfo(f"../{name}")
            member.size = 7
            archive.addfile(member, io.BytesIO(b"slipped"))
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, str(path.parent)
            archive.addfile(link)


@pytest.mark.parametrize(
    "name, kind", [("x.zip", "zip"), ("x.tar", ""), ("x.tar.gz", ":gz"), ("x.tgz", ":gz")]
)
def test_archives_are_refused(tmp_path, name, kind):
    folder = tmp_path / "inside"
    folder.mkdir()
    slip(folder / name, kind, "slipped")
    with pytest.raises(errors.DataError, match=name):
        list(files.read_rows([folder / name]))
    with pytest.raises(errors.CheckpointError):
        start.model_of(folder / name)
    with pytest.raises(errors.T5sftError):
        vocab.load(str(folder / name))
    with contextlib.suppress(errors.ConfigError):  # a tar file is text, which is no harm
        templates.get(str(folder / name)).close()
    disguised = folder / "x.jsonl"  # by another name it is no JSON
    shutil.copy(folder / name, disguised)
    with pytest.raises(errors.DataError, match="not UTF-8|not JSON|control"):
        list(files.read_rows([disguised]))
    assert [p.name for p in tmp_path.iterdir()] == ["inside"]


BOMBS = {  # JSON that is none, or holds what nobody expects
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 50_000,
    "list": b"[1]",
    "number": b"3",
    "null": b"null",
    "text": b'"x"',
    "NaN": b'{"vocab_size": NaN, "model": NaN}',
    "cut": b'{"a"',
    "no UTF-8": b"\xff\xfe\x00",
    "empty": b"",
    "digits": b'{"model_type": ' + b"9" * 5000 + b"}",
    "types": b'{"chat_template": 3, "model_type": [], "weight_map": 3, "added_tokens": 3, '
    b'"added_tokens_decoder": 5, "bos_token": 7, "model": 3, "eos_token": [], "tasks": 3}',
    "inner types": b'{"chat_template": [3], "model_type": {}, "weight_map": {"a": {}}, '
    b'"added_tokens": [3], "added_tokens_decoder": {"a": 5}, "tasks": ["a"], '
    b'"model": {"class": "os.system", "vocab": 3}}',
    "empty objects": b'{"chat_template": [{"template": 5}], "added_tokens": [{}], '
    b'"added_tokens_decoder": {"a": {}}, "model": {"class": "t5.model_lib"}, "tasks": {"a": {}}}',
}
READERS = {  # file -> what reads it; True: it needs what BOMBS lacks
    "config.json": (foreign.open_any, True),
    "model.safetensors.index.json": (foreign.open_any, True),
    "tokenizer.json": (lambda d: vocab.load(str(d)), True),
    "tokenizer_config.json": (lambda d: templates.get(str(d)), True),
    "special_tokens_map.json": (lambda d: vocab.load(str(d)), False),
    "generation_config.json": (lambda d: vocab.load(str(d)), False),
    "tokenizer.json of convert": (lambda d: special.add(d, ["<x>"]), True),
    "run/run.json": (lambda d: start.model_of(_as_ours(d)), True),
    "card.json": (cache.read_split, True),
}


def _as_ours(directory):
    (directory / "config.json").unlink()
    (directory / "params").mkdir()
    return directory


@pytest.mark.parametrize("reader", READERS)
def test_json_of_strangers(tmp_path, reader):
    read, is_needed = READERS[reader]
    for name, bomb in BOMBS.items():
        directory = tmp_path / name
        shutil.copytree(vocabularies.directory(), directory)
        for file in (checkpoints.FOLDER / "llama").iterdir():
            shutil.copy(file, directory)
        target = directory / reader.partition(" ")[0]
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(bomb)
        begun = time.monotonic()
        try:
            read(directory)
            assert not is_needed or name == "NaN", f"{reader} took {name}"
        except errors.T5sftError as error:
            assert error.exit_code in (2, 3, 5) and len(str(error)) < 1000
        assert time.monotonic() - begun < 5


def test_a_json_file_of_a_gigabyte_is_not_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 30)  # sparse
    with pytest.raises(ValueError, match="more than 100000000 bytes"):
        paths.read_object(tmp_path / "config.json")
    with pytest.raises(errors.CheckpointError, match="more than 100000000 bytes"):
        huggingface.read_config(tmp_path)


SIZES = ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "head_dim")


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [10**9, 10**18, -1, 0])
def test_sizes_that_no_model_has(tmp_path, name, value):
    """Names of a thousand million layers would fill the memory before they are compared."""
    shutil.copytree(checkpoints.FOLDER / "llama", tmp_path / "x")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    (tmp_path / "x" / "config.json").write_text(json.dumps({**config, name: value}))
    begun = time.monotonic()
    with pytest.raises(errors.T5sftError):
        foreign.open_any(tmp_path / "x")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "named", ["os.system", "t5.model_lib", "model.importlib", "../os.System", "t5.T5.mro", "", 3]
)
def test_a_description_of_a_model_names_models_only(named, tmp_path):
    canary = tmp_path / "canary"
    with pytest.raises(errors.CheckpointError, match="description of its model"):
        describe.from_json({"class": named, "command": f"touch {canary}"})
    assert not canary.exists()


@pytest.fixture
def outside(tmp_path):
    """A directory that nobody may touch."""
    folder = tmp_path / "outside"
    (folder / "params").mkdir(parents=True)
    (folder / "kept").write_text("canary")
    yield folder
    assert (folder / "kept").read_text() == "canary" and (folder / "params").is_dir()


def test_a_linked_step_is_removed_and_what_it_points_to_stays(tmp_path, outside):
    parent = tmp_path / "run" / "checkpoints"
    parent.mkdir(parents=True)
    names = ("5", "7.orbax-checkpoint-tmp", "5.retired")
    for name in names:
        (parent / name).symlink_to(outside, target_is_directory=True)
    for name in names:
        places.delete(parent / name)
    assert not list(parent.iterdir())
    (parent / "7.orbax-checkpoint-tmp").symlink_to(outside, target_is_directory=True)
    checkpoint.Checkpointer(tmp_path / "run").close()  # removes what a killed process left
    assert not list(parent.iterdir())


def test_links_inside_a_checkpoint_are_damage_and_lead_nowhere(tmp_path, outside):
    """Two links to the top would be 2^40 directories; one to elsewhere, files of others."""
    step = tmp_path / "10"
    (step / "params").mkdir(parents=True)
    (step / "params" / "x").write_text("x")
    manifest.seal(step)
    for name in ("a", "b"):
        (step / "params" / name).symlink_to(step, target_is_directory=True)
    begun = time.monotonic()
    damage = manifest.find_damage(step)
    assert damage and "params/a is not in the manifest" in damage
    assert time.monotonic() - begun < 1
    for name in ("a", "b"):
        (step / "params" / name).unlink()
    assert manifest.find_damage(step) is None
    (step / "data").symlink_to(outside, target_is_directory=True)
    assert "data is not in the manifest" in str(manifest.find_damage(step))


@pytest.mark.parametrize("name", ["../../outside/kept", "/etc/passwd", "params/../../x", ""])
def test_a_manifest_that_names_files_elsewhere(tmp_path, outside, name):
    step = tmp_path / "run" / "10"
    (step / "params").mkdir(parents=True)
    (step / "params" / "x").write_text("x")
    manifest.seal(step)
    content = json.loads((step / "manifest.json").read_text())
    content["files"][name] = {"bytes": 6, "xxh3": "0"}
    content["xxh3"] = manifest._digest(content["files"])  # a forger's, which fits
    (step / "manifest.json").write_text(json.dumps(content))
    assert "is missing" in str(manifest.find_damage(step))


def test_links_in_the_cache(tmp_path, outside):
    """What is cleared away there is never followed."""
    from t5sft.data.preparing import workshop

    root = tmp_path / "cache"
    root.mkdir()
    for name in (".x.parts", ".y.tmp"):
        (root / name).symlink_to(outside, target_is_directory=True)
        os.utime(root / name, (0, 0), follow_symlinks=False)
    os.utime(outside, (0, 0))
    with workshop.directory_of_parts(root, "z"):
        pass
    assert (outside / "kept").exists()
