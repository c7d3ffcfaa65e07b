"""Shell text that all ways to start a run share."""

import shlex

from t5sft.pods import description


def exports(found: description.Description) -> str:
    lines = [f"export {k}={shlex.quote(v)}" for k, v in sorted(found.environment.items())]
    return "\n".join(lines)


def check(result: str) -> str:
    """Returns lines that turn a `code` of 0 into 75 where the run was stopped before its end."""
    program = (
        'import json, sys; done = json.load(open(sys.argv[1])).get("is_done", True); '
        f"sys.exit(0 if done else {description.STOPPED})"
    )
    return f"""\
if [ "$code" -eq 0 ]; then
  python3 -c {shlex.quote(program)} {result} || code=$?
fi"""


def run(found: description.Description, result: str) -> str:
    """Returns lines that run t5sft and leave its exit code in `code`.

    A signal reaches t5sft, also where only the shell gets it, as in a container. A run that was
    stopped before its last step has saved and ended with 0, and is not done: 75.

    Args:
      result: file for what it prints on stdout.
    """
    return f"""\
trap 'if [ -n "${{!-}}" ]; then kill -TERM "$!" 2> /dev/null; else exit 143; fi' TERM INT
{found.line()} > {result} &
child=$!
code=0
wait "$child" || code=$?
while kill -0 "$child" 2> /dev/null; do # a signal ends wait, not the run
  code=0
  wait "$child" || code=$?
done
{check(result)}"""
