# Sourced by the scripts beside it: where the checkout is, and a Python with t5sft installed.
# The environment is .venv in the checkout, or $T5SFT_VENV.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${T5SFT_VENV:-$root/.venv}"

fail() {
  printf 't5sft: %s\n' "$1" >&2
  exit 1
}

# Prints the first Python of 3.11 to 3.13 on PATH.
find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
    then
      printf '%s\n' "$name"
      return
    fi
  done
  fail "needs Python 3.11, 3.12 or 3.13 on PATH; python3 is $(python3 -V 2>&1 || true)"
}

# install FOR: makes the environment and installs t5sft into it, unless that is done already; FOR
# is run, test or dev, each with what the one before has.
# The stamp holds a hash of setup.py, Python and the checkout's path, and what was installed for.
install() {
  local what="$1" stamp="$venv/t5sft-installed" package="$root" now installed=none python
  if [[ ! -x "$venv/bin/python" ]]; then
    python="$(find_python)"
    printf 'Making a Python environment in %s\n' "$venv" >&2
    "$python" -m venv "$venv" >&2 || {
      rm -rf "$venv"
      fail "python3 -m venv failed; on Debian or Ubuntu: apt install python3-venv"
    }
  fi
  now="$("$venv/bin/python" - "$root" <<'PYTHON'
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
text = sys.version + str(root) + (root / "setup.py").read_text(encoding="utf-8")
print(hashlib.sha256(text.encode()).hexdigest())
PYTHON
)"
  if [[ -f "$stamp" && "$(head -n 1 "$stamp")" == "$now" ]]; then
    installed="$(tail -n 1 "$stamp")"
  fi
  case "$installed:$what" in
    dev:* | test:test | test:run | run:run) return ;;
  esac
  if [[ "$what" != run ]]; then
    package="$root[$what]"
  fi
  printf 'Installing t5sft and what it needs into %s (minutes, 3 GB; only once)\n' "$venv" >&2
  # Where uv is there but does not get through (its own certificates, its own index), pip may.
  if ! command -v uv >/dev/null ||
    ! uv pip install --quiet --python "$venv/bin/python" -e "$package" >&2
  then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --use-pep517 \
      -e "$package" >&2
  fi
  printf '%s\n%s\n' "$now" "$what" >"$stamp"
}
