#!/bin/sh
# The second half of the demo, where the train extra is installed: pretrain and probe.
set -eu
work=${WORK:-/work} config=${CONFIG:-/configs/demo.toml}

tgmae pretrain "$work/demo" --config "$config" "$@"
tgmae probe "$work/demo" --config "$config" "$@"
tgmae status "$work/demo"
