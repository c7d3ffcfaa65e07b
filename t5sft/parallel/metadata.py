"""What a TPU VM's metadata server says of its slice. Only asked where there are TPU chips."""

import importlib.util
import pathlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

from t5sft import errors

_TRIES = 3


class Slice(NamedTuple):
    """This worker, all workers of its slice, and MEGASCALE_* of several slices."""

    worker: int
    workers: list[str]
    values: dict[str, str]


def has_tpu(environ: Mapping[str, str], root: str = "/") -> bool:
    """Whether this is a machine of Google's with TPU chips and with libtpu."""
    if environ.get("TPU_SKIP_MDS_QUERY") or "tpu" not in environ.get("JAX_PLATFORMS", "tpu"):
        return False
    chips = [
        *pathlib.Path(root).glob("dev/accel[0-9]*"),
        *pathlib.Path(root).glob("dev/vfio/[0-9]*"),
    ]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def read(environ: Mapping[str, str]) -> Slice:
    """Asks the metadata server; a machine that is no worker of a slice is alone in its own.

    Raises:
      DistributedError: no answer.
    """
    server = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    number = _get(server, "agent-worker-number")
    endpoints = _get(server, "worker-network-endpoints")
    if number is None or endpoints is None:
        return Slice(0, ["localhost"], {})
    # "name:id:address" each, or bare host names.
    workers = [endpoint.strip().split(":")[-1] for endpoint in endpoints.split(",")]
    pairs = re.findall(
        r"^\s*(MEGASCALE_\w+)\s*:\s*'?([^'\n]*)'?\s*$", _get(server, "tpu-env") or "", re.M
    )
    return Slice(int(number), workers, dict(pairs))


def _get(server: str, key: str) -> str | None:
    """Returns the value of an attribute of this instance; None where it has none."""
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{key}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    # A proxy of the environment must not be asked for what only this machine can see.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for attempt in range(_TRIES):
        try:
            with opener.open(request, timeout=5) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            problem: Exception = error
        except OSError as error:
            problem = error
        time.sleep(0.5 * attempt)
    raise errors.DistributedError(
        f"there are TPU chips, but {server} did not tell of the slice ({problem}); processes; "
        "give --coordinator, --num_processes and --process_id; a single host: --num_processes=1"
    )
