#!/usr/bin/env bash
# Make .venv and install this clone there, from files whose hashes stand in this folder (lock.py says how).
#   install.sh run       what the package needs
#   install.sh develop   with all extras, and what tests, documentation and checks need
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  run) package=. ;;
  develop) package='.[all,dev]' ;;
  *) echo "usage: bash requirements/install.sh run|develop" >&2; exit 2 ;;
esac
python3 -m venv .venv
if ! .venv/bin/python -c "import sys; sys.exit(sys.version_info < (3, 11))"; then
  echo "The pins need Python 3.11 or later: installing the newest versions that run on this one" >&2
  .venv/bin/pip install -q torch==2.13.0 -e "$package"
  exit
fi
.venv/bin/pip install -q --no-deps -r requirements/build.txt
.venv/bin/pip install -q --no-deps --no-build-isolation -r "requirements/$1.txt"
.venv/bin/pip install -q --no-build-isolation torch==2.13.0 -e "$package"
