"""Runs everything once on real images: python -m tf_triplet.cli.demo

Trains on half of the emoji, evaluates the other half before and after, exports
an index of three vendors' drawings, serves it, and asks over gRPC with the
drawings of the fourth vendor. Without network it says so, and uses the
rendered catalog.

Files: <workdir>/summary.json and <workdir>/neighbours.png.

In Python: tf_triplet.workflows.demo(workdir).
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import flags

from tf_triplet import workflows
from tf_triplet.cli import program

_WORKDIR = flags.DEFINE_string(
    "workdir",
    "runs/demo",
    "Folder of the demo. A former demo in it is deleted.",
)
_CONFIGS = flags.DEFINE_string(
    "configs", "configs", "Folder of emoji.py and rendered.py."
)
_STEPS = flags.DEFINE_integer("steps", 300, "Number of training steps.")
_SHOWN = flags.DEFINE_integer(
    "shown", 8, "Number of queries in neighbours.png.", lower_bound=1
)


@program.friendly
def main(argv: list[str]) -> None:
    """Runs all stages."""
    program.refuse_arguments(argv)
    summary = workflows.demo(
        _WORKDIR.value, _CONFIGS.value, _STEPS.value, _SHOWN.value
    )
    print(json.dumps(summary, indent=2))
    workdir = Path(_WORKDIR.value)
    files = [str(workdir / f) for f in ("summary.json", "neighbours.png")]
    print(f"Written: {' and '.join(files)}")


def run() -> None:
    """Runs the program."""
    program.start(main)


if __name__ == "__main__":
    run()
