#!/usr/bin/env bash
# Run the fast tests in a fresh virtual environment with the lowest versions that pyproject.toml
# allows. It takes about 6 GB of disk, and downloads half of that.
#
#   tools/oldest_versions.sh                    # all fast tests
#   tools/oldest_versions.sh tests/backbones    # some of them
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder"
"$folder/bin/pip" install --quiet --constraint tools/oldest_versions.txt --editable '.[test]'
"$folder/bin/pip" freeze --exclude-editable
# The oldest libraries warn of what their own, newer dependencies have renamed.
"$folder/bin/python" -m pytest -q -p no:cacheprovider -W ignore::DeprecationWarning "${@:-tests}"
