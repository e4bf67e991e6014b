#!/bin/sh
# try_wheel.sh DIST [PYTHON [EXTRA]]: installs the wheel of this Python from a directory into an empty environment, without a compiler,
# and decodes a message with it. With the extra `demo` the demonstration is run, too, from there.
set -eu
dist=$1
python=${2:-python3}
extra=${3:-}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
unset PYTHONPATH # the tree is not what is tried
chmod 755 "$place" # as root the demo's server runs as another user
"$python" -m venv "$place/venv"
bin=$place/venv/bin
[ -d "$bin" ] || bin=$place/venv/Scripts
pip() { "$bin/python" -m pip "$@" --quiet --disable-pip-version-check; }
pip install --no-index --no-deps --find-links "$dist" pgcdc # ours, whatever an index has under that name
pip install --only-binary :all: "pgcdc${extra:+[$extra]}"
pip check
cd "$place"
"$bin/python" -W error - <<'PYTHON'
import sys, time
began = time.process_time()
import pgcdc
event = pgcdc.Decoder().decode(b"B" + bytes(20))
took = time.process_time() - began
assert not {"psycopg", "asyncio"} & sys.modules.keys(), "the decoder needs neither"
print(f"{pgcdc.__version__} on {sys.version.split()[0]}: {event}, {took * 1000:.0f} ms of CPU from the import on")
PYTHON
[ "$extra" != demo ] || "$bin/pgcdc" demo --seconds 10 --json
