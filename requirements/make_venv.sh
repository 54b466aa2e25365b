#!/bin/sh
# Makes or updates a virtual environment from a lock file:
#   requirements/make_venv.sh .venv requirements/lock.txt
# Without arguments it only installs uv, into .venv-uv.
# Index, proxy and certificate settings come from the environment, as for pip and uv themselves.
set -eu
cd "$(dirname "$0")/.."

fail() {
  echo "setup: $1" >&2
  exit 1
}

python=
for candidate in ${PYTHON:-} python3.11 python3; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    python=$("$candidate" -c 'import sys; print(sys.executable)')
    break
  fi
done
[ -n "$python" ] || fail "the locked environment needs Python 3.11, found $(python3 --version 2>&1 | head -n 1); other versions: docs/install.md"
# pyfarmhash, which TFDV needs, has no wheels: it takes a compiler and Python's headers.
missing=
"$python" -c 'import ensurepip' 2>/dev/null || missing="$missing python3.11-venv"
command -v c++ >/dev/null || missing="$missing g++"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
  missing="$missing python3.11-dev"
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "setup: installing$missing with apt-get"
  apt-get update -qq
  # shellcheck disable=SC2086  # a list of package names
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
elif [ -n "$missing" ]; then
  fail "system packages are missing: apt install$missing"
fi

# uv does not read pip's settings; who has only configured pip means both.
if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
  index=${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}
  [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
fi
if [ -z "${SSL_CERT_FILE:-}" ] && [ -n "${PIP_CERT:-}" ]; then
  export SSL_CERT_FILE="$PIP_CERT"
fi

# uv lives beside the environment, for a sync removes everything that the lock does not name.
uv=.venv-uv/bin/uv
.venv-uv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv-uv
.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
  -r requirements/bootstrap.txt

[ $# -gt 0 ] || exit 0
venv=$1
lock=$2
echo "setup: installing $(grep -c '^[a-z].*==' "$lock") packages into $venv (a minute or two the first time)"
"$venv/bin/python" -c '' 2>/dev/null ||
  "$uv" venv --quiet --clear --no-python-downloads --python "$python" "$venv"
"$uv" pip sync --quiet --require-hashes --python "$venv/bin/python" "$lock"
# The lock has setuptools, so this needs no index.
"$uv" pip install --quiet --offline --no-deps --no-build-isolation --python "$venv/bin/python" -e .
touch "$venv/.ready"
