#!/bin/sh
# The first half of the demo, where the pipeline extra is installed: draw the world; index, caption, shard, guide.
set -eu
work=${WORK:-/work} config=${CONFIG:-/configs/demo.toml} videos=${VIDEOS:-1200}
models=$(python -c 'from pipeline.world import MODELS; print(MODELS)')

python -c "
from pathlib import Path
from pipeline.world import write_world
write_world(Path('$work/world'), videos=$videos, test_share=0.2, size=64, workers=1)
"
set -- --config "$config" --set caption.blip2.model="$models/blip2" --set text.model="local-dir:$models/clip" "$@"
tgmae index "$work/world" --out "$work/demo" "$@"
tgmae caption "$work/demo" "$@"
tgmae shard "$work/demo" "$@"
tgmae guide "$work/demo" "$@"
