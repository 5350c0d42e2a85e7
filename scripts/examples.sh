#!/usr/bin/env bash
# Runs the programs of examples/ against the Atoll of the environment (ATOLL_URL, ATOLL_API_KEY), over plain HTTP.
#
#   scripts/with-atoll.sh scripts/examples.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/../tests/examples"
# shellcheck source=sdks.sh
. ../../scripts/sdks.sh
atoll template prepare code-interpreter
venv=$(installed examples ../../examples/requirements.txt pytest==8.4.2)
e2b_finds_it
"$venv/bin/python" -B -m pytest -p no:cacheprovider "$@"
