"""Where the folders gin/ and tasks/ are: inside an installed package, beside it in a checkout.

And how a small JSON file of a stranger is read.
"""

import json
import pathlib
from typing import Any

_MAX_OBJECT_BYTES = 100_000_000


def folder(name: str) -> pathlib.Path:
    """Returns the folder `gin` or `tasks` that belongs to this copy of t5sft.

    Raises FileNotFoundError when the installation lacks it.
    """
    package = pathlib.Path(__file__).resolve().parent
    for candidate in (package / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"no folder {name}/ inside or beside {package}: reinstall t5sft")


def find(name: str) -> pathlib.Path:
    """Returns the path `name`: as given, or else inside or beside the package.

    So `tasks/village/vocab.model` is found from any working directory. Raises FileNotFoundError
    when neither exists.
    """
    path = pathlib.Path(name).expanduser()
    if path.exists():
        return path
    top, *rest = pathlib.PurePath(name).parts or (".",)
    shipped = folder(top).joinpath(*rest) if top in ("gin", "tasks") else path
    if not shipped.exists():
        raise FileNotFoundError(f"no file {name}; looked in {path.resolve().parent}")
    return shipped


def read_object(path: Any) -> dict[str, Any]:
    """Reads a file that is one JSON object.

    Args:
      path: of pathlib or etils.

    Raises:
      ValueError: no JSON, no object, nested too deeply for Python, or larger than 100 MB.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(_MAX_OBJECT_BYTES + 1)
    if len(text) > _MAX_OBJECT_BYTES:
        raise ValueError(f"more than {_MAX_OBJECT_BYTES} bytes")
    return parse_object(text)


def parse_object(text: bytes) -> dict[str, Any]:
    """Returns the JSON object of a text; ValueError as `read_object`."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return content
