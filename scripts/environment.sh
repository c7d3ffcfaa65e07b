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

# install EXTRA: makes the environment and installs t5sft[EXTRA], unless that is done already.
# The stamp tells: packaging unchanged, same Python, same checkout, and an extra that includes it.
install() {
  local extra="$1" stamp="$venv/t5sft-installed" now done_extra=none python
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
text = sys.version + str(root) + "".join((root / f).read_text() for f in ("setup.py", "pyproject.toml"))
print(hashlib.sha256(text.encode()).hexdigest())
PYTHON
)"
  if [[ -f "$stamp" && "$(head -n 1 "$stamp")" == "$now" ]]; then
    done_extra="$(tail -n 1 "$stamp")"
  fi
  case "$done_extra:$extra" in
    dev:* | test:test | test:run | run:run) return ;;
  esac
  printf 'Installing t5sft[%s] and what it needs into %s (minutes, 3 GB; only once)\n' \
    "$extra" "$venv" >&2
  if command -v uv >/dev/null; then
    uv pip install --quiet --python "$venv/bin/python" -e "$root[$extra]" >&2
  else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --use-pep517 \
      -e "$root[$extra]" >&2
  fi
  printf '%s\n%s\n' "$now" "$extra" >"$stamp"
}
