"""Data sets of TensorFlow Datasets, read as records of any format.

A TFDS data set that yields text needs none of this: `seqio.TfdsDataSource` in a task of one's own
does. This reads the others: conversations, preferences, columns of other names.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from t5sft import errors
from t5sft.data import readers, sources


def from_tfds(
    name: str,
    splits: Mapping[str, str],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    data_dir: str | None = None,
):
    """Returns a SeqIO source over a prepared TFDS data set, in its own order.

    Args:
      name: such as "gsm8k:1.0.0".
      splits: our split -> TFDS's, which may be a slice.
      format: a name in `readers.FORMATS`; None: told by the fields of each row.
      columns: our field -> the data set's.
      data_dir: where it was prepared; None: TFDS's own folder.

    Example:
      from_tfds("my_chats:1.0.0", {"train": "train[:98%]", "validation": "train[98%:]"})
    """

    def make(split: str) -> Iterator[sources.Made]:
        for number, row in enumerate(_rows(_builder(name, data_dir), splits[split])):
            place = f"{name}, {splits[split]}[{number}]"
            yield from readers.read_all(row, format, columns, where=place)

    def paths(split: str) -> list[pathlib.Path]:
        found = _builder(name, data_dir).info.splits[splits[split]]
        return [pathlib.Path(one.filename) for one in found.file_instructions]

    return sources.from_records(make, paths, tuple(splits))


def _builder(name: str, data_dir: str | None):
    """Returns the data set's builder.

    Raises:
      DataError: it is unknown or not prepared; nothing is fetched here.
    """
    sources.load_seqio()  # the quiet way to TensorFlow
    import tensorflow_datasets as tfds

    hint = f"prepare it once: tfds.builder({name!r}).download_and_prepare()"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (ValueError, LookupError, ImportError) as error:  # unknown; the first line says it
        what = str(error).strip().partition("\n")[0]
        raise errors.DataError(f"no TFDS data set; {name}: {what}; {hint}") from error
    if not builder.is_prepared():
        raise errors.DataError(f"no data of {name}; looked in {builder.data_dir}; {hint}")
    return builder


def _rows(builder, split: str) -> Iterator[dict[str, Any]]:
    if builder.info.file_format.value == "array_record":  # tf.data cannot read it
        for row in builder.as_data_source(split=split):
            yield _plain(builder.info.features, row)
        return
    dataset = builder.as_dataset(split=split, shuffle_files=False)
    for row in dataset.as_numpy_iterator():
        yield _plain(builder.info.features, row)


def _plain(feature: Any, value: Any) -> Any:
    """Returns text, numbers, lists and dicts: a sequence of dicts is a dict of lists in TFDS."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: _plain(feature[key], value[key]) for key in feature}
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(value, Mapping):
            length = len(next(iter(value.values())))
            items = [{key: value[key][i] for key in inner} for i in range(length)]
        else:
            items = list(value)
        return [_plain(inner, item) for item in items]
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value.item() if hasattr(value, "item") else value
