#!/bin/sh
# Installs the wheel of this Python from a directory into an empty environment, without a compiler, and decodes a message with it.
set -eu
dist=$1
python=${2:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place/venv"
bin=$place/venv/bin
[ -d "$bin" ] || bin=$place/venv/Scripts
"$bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --find-links "$dist" pgcdc
cd "$place"
"$bin/python" -W error -c 'import pgcdc; print(pgcdc.__version__, pgcdc.Decoder().decode(b"B" + bytes(20)))'
