"""t5sft pod: the script or manifest that starts a run on TPU VMs, Kubernetes or Slurm."""

import pathlib

from t5sft import errors
from t5sft.pods import description, gke, slurm, tpu_vm

_RENDER = {
    description.TpuVm: tpu_vm.render,
    description.Gke: gke.render,
    description.Slurm: slurm.render,
}


def render(*, description_file: str, output: str | None = None) -> dict:
    """Prints what starts the run of a description, or writes it; starts nothing.

    Args:
      description_file: TOML; see `scripts/pods`.
      output: file; None: stdout.
    """
    found = description.read(description_file)
    text = _RENDER[type(found.target)](found)
    if output is None:
        print(text, end="")
        return {"text": text}
    try:
        path = pathlib.Path(output).expanduser()
        path.write_text(text, encoding="utf-8")
        if text.startswith("#!"):
            path.chmod(0o755)
    except OSError as error:
        raise errors.StorageError(f"cannot write ({error}); {output}; name another") from error
    return {"output": output}
