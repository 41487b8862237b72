#!/usr/bin/env bash
# Runs a command until a time, and keeps what it ended with, of which `ray symmetric-run` says 0 where Ray did not start.
#   until.sh SECONDS FILE COMMAND...      SECONDS of `date +%s`; empty: there is no such time
# At SIGTERM, of which `timeout` makes 124, a run stops at its next boundary. (In the background `timeout` would send two,
# and the second stops at once.)
set -euo pipefail

left="${1:+$(($1 - $(date +%s)))}"
if [[ -n "$left" && "$left" -le 0 ]]; then
    echo "omatg-ray: Ray was there only when it was time to stop" >&2
    exit 1
fi
status=0
timeout --foreground "${left:-0}" "${@:3}" || status=$?
echo "$status" >"$2"
exit "$status"
