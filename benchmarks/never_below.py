"""Checks that the default recipe never ends below the pretrained features.

    python benchmarks/never_below.py --workdir=runs/never_below
    python benchmarks/never_below.py --workdir=runs/never_below \
        --tables=shop/manifest.csv --seeds=0,1 --only=emoji,20x3

Every catalog is trained on by the default recipe, and the kept encoder is
compared with the pretrained features on the test products. A catalog fails if
the whole 95 % interval of its gain in Recall@1 lies below zero. The same
command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tf_triplet import config as configs
from tf_triplet import workflows

# Products, images of each, query domain and gallery domain.
DRAWN = {
    "rendered": (200, 6, "", ""),
    "street to studio": (200, 6, "street", "studio"),
    "20x3": (20, 3, "", ""),
    "2000x2": (2_000, 2, "", ""),
}


def build_config(catalog: str, seed: int):
    """Returns the default recipe for a catalog, with all choices left open."""
    config = configs.base_config()
    config.seed = config.data.split_seed = seed
    config.model.weights = "registry"
    if catalog in DRAWN:
        products, images, *_ = DRAWN[catalog]
        config.data.source = "rendered"
        config.data.rendered.products = products
        config.data.rendered.images_per_product = images
    elif Path(catalog).exists():
        config.data.path = catalog
    else:
        config.data.source = catalog
    return config


def measure(catalog: str, seed: int, workdir: Path) -> dict:
    """Trains, and compares with the pretrained features."""
    query, gallery = DRAWN.get(catalog, ("", "", "", ""))[2:]
    result = workflows.train(build_config(catalog, seed), workdir)
    report = workflows.evaluate(
        workdir,
        workflows.EvaluateOptions(
            baseline="pretrained",
            ks=(1,),
            query_domain=query or None,
            gallery_domain=gallery or None,
        ),
        progress=False,
    )
    return {
        "pretrained": report.baseline.overall.recall[1],
        "kept": report.trained.overall.recall[1],
        "gain": report.gain.value,
        "low": report.gain.low,
        "high": report.gain.high,
        "step": result.best_step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--tables", default="", help="paths of more tables")
    parser.add_argument("--only", default="", help="names of some catalogs")
    args = parser.parse_args()
    catalogs = ["emoji", *DRAWN]
    if args.only:
        catalogs = args.only.split(",")
    catalogs += filter(None, args.tables.split(","))
    args.workdir.mkdir(parents=True, exist_ok=True)
    file = args.workdir / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    failed = []
    for seed in map(int, args.seeds.split(",")):
        for catalog in catalogs:
            key = f"{catalog}, seed {seed}"
            if key not in results:
                start = time.monotonic()
                name = key.replace("/", "_").replace(" ", "_")
                results[key] = measure(catalog, seed, args.workdir / name)
                results[key]["seconds"] = round(time.monotonic() - start)
                file.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{key}: {json.dumps(results[key])}", flush=True)
            if results[key]["high"] < 0:
                failed.append(key)
    if failed:
        sys.exit(f"Below the pretrained features: {'; '.join(failed)}")
    print("No catalog ends below the pretrained features.")


if __name__ == "__main__":
    main()
