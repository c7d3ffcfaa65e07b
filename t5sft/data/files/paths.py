"""Which files: names to files, kinds by name, and the folder of corpora."""

import glob
import os
import pathlib
import re

from t5sft import errors

_KIND = re.compile(
    r"[.-](?P<kind>jsonl|ndjson|json|csv|tsv|parquet|array_?record|tfrecords?|txt|text)"
    r"(-\d+-of-\d+)?(?P<compressed>\.gz|\.zst)?$",
    re.IGNORECASE,
)
_SAME = {"ndjson": "jsonl", "array_record": "arrayrecord", "tfrecords": "tfrecord", "txt": "text"}
_KINDS = ".json, .jsonl, .csv, .tsv, .parquet, .arrayrecord, .tfrecord or .txt"


def kind_of(path: pathlib.Path) -> str:
    """Returns json, jsonl, csv, tsv, parquet, arrayrecord, tfrecord or text, by the file's name.

    Raises:
      DataError: the name says none of them, or compression where the kind has its own.
    """
    found = _KIND.search(path.name)
    if not found:
        raise errors.DataError(
            f"unknown kind of file; {path}; name it {_KINDS} (text kinds may end in .gz or .zst)"
        )
    kind = found["kind"].lower()
    kind = _SAME.get(kind, kind)
    if found["compressed"] and kind in ("parquet", "arrayrecord"):
        raise errors.DataError(f"a {kind} file has compression inside; {path}; unpack it")
    return kind


def expand(pattern: str | pathlib.Path, *, root: pathlib.Path | None = None) -> list[pathlib.Path]:
    """Returns the files of a name, a glob (`**` for folders) or a directory, sorted.

    Of a directory all files of a known kind, at any depth, but those whose name starts with `.` or
    `_`; they must be of one kind, so that no note is taken for data.

    Args:
      root: a folder that no file may lie outside of, by `..` or by a link. For a directory it is
        the directory.

    Raises:
      DataError: nothing there, several kinds in a directory, or a file outside of `root`.
    """
    path = pathlib.Path(pattern).expanduser()
    if path.is_file():
        found = [path]
    elif path.is_dir():
        root = root or path
        found = _in_directory(path)
    else:
        found = [pathlib.Path(x) for x in sorted(glob.glob(str(path), recursive=True))]
        found = [x for x in found if x.is_file()]
    if not found:
        raise errors.DataError(f"no data file; {pattern}; check the path")
    if root is not None:
        whole = root.resolve()
        for file in found:
            if not file.resolve().is_relative_to(whole):
                raise errors.DataError(
                    f"a file outside of {root}; {file} -> {file.resolve()}; "
                    f"give it by its own path, or as a glob ({path}/*)"
                )
    return found


def _in_directory(path: pathlib.Path) -> list[pathlib.Path]:
    found = sorted(
        file
        for file in path.rglob("*")
        if _KIND.search(file.name)
        and not any(part[0] in "._" for part in file.relative_to(path).parts)
        and file.is_file()
    )
    kinds = sorted({kind_of(file) for file in found})
    if len(kinds) > 1:
        raise errors.DataError(
            f"files of several kinds ({', '.join(kinds)}); {path}; "
            f"name one kind, such as '{path}/**/*.{kinds[0]}'"
        )
    return found


def data_folder() -> pathlib.Path:
    """Returns where corpora lie, each in a folder of its name: $T5SFT_DATA or ~/t5sft_data."""
    return pathlib.Path(os.environ.get("T5SFT_DATA") or "~/t5sft_data").expanduser()


def find(
    corpus: str, pattern: str, *, how_to_get: str, root: str | pathlib.Path | None = None
) -> list[pathlib.Path]:
    """Returns the files of a corpus: `pattern` in the folder `corpus` of `root`.

    The root may be the corpus's own folder, too.

    Args:
      pattern: a file, glob or directory, relative to the corpus's folder.
      how_to_get: what to fetch, and from where, for the message when nothing is there.
      root: the folder of all corpora; None: `data_folder()`.

    Raises:
      DataError: nothing there, or a file outside of the folder.
    """
    root = pathlib.Path(root).expanduser() if root else data_folder()
    folder = root if root.name == corpus and not (root / corpus).exists() else root / corpus
    if ".." in pathlib.PurePath(pattern).parts or pathlib.PurePath(pattern).is_absolute():
        raise errors.DataError(f"a path that leaves its folder; {pattern}; name a file below it")
    if not glob.glob(f"{glob.escape(str(folder))}/{pattern}", recursive=True):
        raise errors.DataError(
            f"no data of {corpus}; looked for {folder / pattern}; {how_to_get}, put it there, or "
            "name the folder by --data DIRECTORY or T5SFT_DATA"
        )
    return expand(f"{glob.escape(str(folder))}/{pattern}", root=folder)


def below(path: str) -> list[pathlib.Path]:
    """Returns the files of a path, glob or directory (all below it), sorted."""
    place = pathlib.Path(path).expanduser()
    if place.is_dir():
        return sorted(file for file in place.rglob("*") if file.is_file())
    found = [place] if place.is_file() else glob.glob(str(place), recursive=True)
    return sorted(pathlib.Path(file) for file in found if pathlib.Path(file).is_file())
