"""TensorBoard's files, written at once.

tensorboardX hands figures to a thread: on a full disk that thread dies, and after ten more of them
its queue lets the run wait for ever (seen with 2.6.5). So only its file format is used here.
"""

import pathlib
import time
from collections.abc import Mapping

_FLUSH_SECONDS = 30.0  # a flush waits for the disk


class Board:
    """Appends scalars to a new file in `directory`; a context manager.

    Args:
      purge_step: TensorBoard hides what earlier files say of this step and those after it.

    Raises:
      OSError: the disk is full or gone; so do `add` and `close`.
    """

    def __init__(self, directory, *, purge_step: int | None = None):
        from tensorboardX import event_file_writer, proto  # half a second

        self._proto = proto
        pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
        self._file = event_file_writer.EventsWriter(f"{directory}/events")
        self._flushed = 0.0
        if purge_step is not None:
            log = proto.event_pb2.SessionLog
            self._write(step=purge_step, session_log=log(status=log.START))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds figures of a step; name -> value."""
        kind = self._proto.summary_pb2.Summary
        scalars = [kind.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=kind(value=scalars))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def _write(self, **fields) -> None:
        event = self._proto.event_pb2.Event(wall_time=time.time(), **fields)
        self._file.write_event(event)

    def close(self) -> None:
        """Writes what is still in memory."""
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
