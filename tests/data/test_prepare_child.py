"""The child process that prepares: its errors come back, its death leaves nothing half done."""

import dataclasses
import importlib
import pathlib
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from toy_data import TOY

from t5sft import errors
from t5sft.data import cache, prepare
from t5sft.data.preparing import parts


def child(data, tmp_path, monkeypatch, source):
    """What `Preparation` raises when the module of the task has this source."""
    (tmp_path / "broken_task.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    data = dataclasses.replace(data, modules=("broken_task",))
    with pytest.raises(errors.T5sftError) as raised:
        prepare.Preparation(data, "decoder", ("train",)).result()
    assert not list(pathlib.Path(data.cache_dir).glob("prepared/[!.]*"))
    return raised.value


@pytest.mark.parametrize("kind", [errors.ConfigError, errors.DataError, errors.StorageError])
def test_errors_of_the_child_come_back_as_they_are(data, tmp_path, monkeypatch, kind):
    source = f"""
        from t5sft import errors
        print("noise")
        def register(data):
            raise errors.{kind.__name__}("what ä; " + data.data + ";\\ndo")
        """
    got = child(data, tmp_path, monkeypatch, source)
    assert type(got) is kind and str(got) == f"what ä; {data.data}; do"


@pytest.mark.parametrize(
    "source, code",
    [("import os; os._exit(9)", 9), ("1 / 0", 1), ("import os; os.kill(os.getpid(), 9)", -9)],
)
def test_a_child_that_dies_is_an_error(data, tmp_path, monkeypatch, source, code):
    got = child(data, tmp_path, monkeypatch, source)
    assert type(got) is errors.DataError and f"code {code};" in str(got)


def test_a_module_missing_in_the_child_is_named(data, tmp_path, monkeypatch):
    got = child(data, tmp_path, monkeypatch, "import no_such_module_anywhere")
    assert type(got) is errors.ConfigError and "no_such_module_anywhere" in str(got)


@pytest.mark.slow
def test_a_child_prepares_and_this_process_stays_without_tensorflow(tmp_path):
    """In a fresh process: the child is killed half-way, started again, and gives the same data."""
    (tmp_path / "killed_task.py").write_text(
        textwrap.dedent("""
        import os, pathlib, signal
        import toy_task
        from t5sft.data.preparing import parts

        merge = parts.merge

        def dies(directory, *arguments):
            mark = pathlib.Path(__file__).with_suffix(".mark")
            if mark.exists() or directory.name == "toy_copy":
                return merge(directory, *arguments)
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

        parts.merge = dies
        """)
    )
    code = f"""
        import sys
        sys.path[:0] = [{str(tmp_path)!r}, {str(pathlib.Path(__file__).parents[1])!r}]
        from t5sft import errors
        from t5sft.data import prepare

        data = prepare.Data(**{dataclasses.asdict(TOY)!r} | dict(
            modules=("killed_task",), cache_dir={str(tmp_path)!r}))
        for attempt in range(2):
            try:
                (split,) = prepare.Preparation(data, "encoder_decoder", ("train",)).result()
            except errors.DataError as error:
                assert "code -9" in str(error) and attempt == 0
        assert "tensorflow" not in sys.modules and "seqio" not in sys.modules
        print(prepare.directory(data, "encoder_decoder", "train"))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    got = cache.read_split(pathlib.Path(done.stdout.strip()))
    toy = dataclasses.replace(TOY, cache_dir=str(tmp_path / "here"))
    expected = cache.read_split(prepare.prepare_split(toy, "encoder_decoder", "train"))
    for task, examples in expected.tasks.items():
        for column, values in examples.columns.items():
            np.testing.assert_array_equal(got.tasks[task].columns[column], values)
    finished = [path.name for path in (tmp_path / "prepared").glob("[!.]*")]
    assert finished == [got.directory.name] and got.digest == expected.digest


def test_what_a_worker_needs_is_without_tensorflow_and_jax():
    code = """
        import sys
        from t5sft.data import prepare
        from t5sft.data.preparing import parts, workshop
        with workshop.Pool(2) as pool:
            assert pool.submit(abs, -3).result() == 3
        assert not {"tensorflow", "seqio", "jax", "flax"} & set(sys.modules)
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_parts_do_not_depend_on_the_number_of_workers_and_a_worker_dies_with_its_parent(tmp_path):
    """Without SeqIO, in a process of its own: chunks of texts, made by none, one and three."""
    code = f"""
        import os, pathlib, signal, time
        from t5sft.data import prepare, reading
        from t5sft.data.preparing import parts, workshop
        data = prepare.Data(task="t", vocabulary="bytes")
        pids = []
        for workers in (0, 1, 3):
            folder = pathlib.Path({str(tmp_path)!r}, str(workers))
            folder.mkdir()
            with workshop.Pool(workers) as pool:
                waiting = []
                for number in range(6):
                    texts = [f"{{number}} {{i}}".encode() for i in range(50)]
                    chunk = reading.Chunk(number, False, {{"inputs": texts, "targets": texts}})
                    name, payload = parts.name(chunk)
                    path = str(folder / name)
                    waiting.append(pool.submit(parts.make, payload, path, "t", data, "decoder"))
                assert [one.result()["kept"] for one in waiting] == [50] * 6
        pool = workshop.Pool(2)
        print(pool.submit(os.getpid).result(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with open(tmp_path / "out", "w+") as out:  # a pipe would be held by an orphan
        done = subprocess.run(command, stdout=out, timeout=60)
    assert done.returncode == -9
    worker = pathlib.Path("/proc", (tmp_path / "out").read_text().strip())
    until = time.monotonic() + 20
    while worker.exists() and "zombie" not in (worker / "status").read_text():
        assert time.monotonic() < until, "the worker outlives its parent"
        time.sleep(0.1)
    alone = sorted((tmp_path / "0").iterdir())
    assert len(alone) == 6
    for workers in ("1", "3"):
        for path in alone:
            made = parts.read(path.parents[1] / workers / path.name)
            expected = parts.read(path)
            assert made.counts == expected.counts
            for key, values in expected.arrays.items():
                np.testing.assert_array_equal(made.arrays[key], values)
