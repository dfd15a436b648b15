"""The whole road on real images: python -m tf_triplet.cli.demo

Trains on half of the emoji, evaluates the other half before and after,
exports an index of three vendors' drawings, serves it, and asks over gRPC
with the fourth vendor's. Without network it says so, and uses the rendered
catalog. Writes <workdir>/summary.json and <workdir>/neighbours.png.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from tf_triplet import config as configs
from tf_triplet.cli import errors

_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/demo", "Folder of the demo; a former demo is replaced."
)
_CONFIGS = flags.DEFINE_string("configs", "configs", "Folder of the configs.")
_STEPS = flags.DEFINE_integer("steps", 300, "Training steps.")
_SHOWN = flags.DEFINE_integer("shown", 8, "Queries in neighbours.png.")
# What asks, and what is searched.
_DOMAINS = {
    "emoji": ("google", "twitter,fluent,openmoji"),
    "rendered": ("street", "studio"),
}


@errors.friendly
def main(argv) -> None:
    """Runs all stages."""
    errors.refuse_arguments(argv)
    workdir = Path(_WORKDIR.value)
    if (workdir / "summary.json").exists() or (
        workdir / "config.json"
    ).exists():
        shutil.rmtree(workdir)
    seconds = {}
    with _timed("prepare", seconds):
        source = _choose_source()
    query_domain, gallery = _DOMAINS[source]
    with _timed("train", seconds):
        _run(
            "train",
            f"--config={Path(_CONFIGS.value) / (source + '.py')}",
            f"--workdir={workdir}",
            f"--config.training.steps={_STEPS.value}",
        )
    with _timed("evaluate", seconds):
        _run("evaluate", f"--workdir={workdir}", "--baseline=pretrained")
    with _timed("export", seconds):
        _run(
            "export",
            f"--workdir={workdir}",
            "--split=test",
            f"--domains={gallery}",
        )
    with _timed("query", seconds):
        served = _ask(workdir, query_domain)
    metrics = workdir / "report" / "evaluation-test.json"
    report = json.loads(metrics.read_text())
    version = workdir / "models" / "product_search" / "1"
    export = json.loads((version / "assets.extra/fingerprint.json").read_text())
    summary = {
        "source": source,
        "recall_at_1_pretrained": report["baseline"]["overall"]["recall@1"],
        "recall_at_1_trained": report["trained"]["overall"]["recall@1"],
        "served_recall_at_1": served,
        "scann_recall_at_10": export["parity"]["recall"],
        "seconds": seconds,
    }
    path = workdir / "summary.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    print(path.read_text())
    print(f"Written: {path} and {workdir / 'neighbours.png'}")


@contextlib.contextmanager
def _timed(stage: str, seconds: dict[str, float]):
    print(f"== {stage}", flush=True)
    start = time.monotonic()
    yield
    seconds[stage] = round(time.monotonic() - start, 1)


def _choose_source() -> str:
    """emoji, or rendered where the registries cannot be reached."""
    from tf_triplet import builders
    from tf_triplet.data import fetch

    config = configs.base_config()
    config.data.source = "emoji"
    try:
        builders.build_catalog(config)
        builders.fetch_registry_weights()
    except fetch.FetchError as error:
        print(
            f"The emoji cannot be fetched: {error}\n"
            "NO NETWORK: the demo goes on with rendered products and random "
            "weights; its metrics are not those of the README."
        )
        return "rendered"
    return "emoji"


def _run(verb: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"tf_triplet.cli.{verb}", *arguments]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise ValueError(
            f"The stage {verb} failed with exit code {code}; its message is "
            f"above. The command was: {' '.join(command)}"
        )


def _ask(workdir: Path, query_domain: str) -> float:
    """Serves, queries with images that are not indexed, and stops."""
    command = [
        *(sys.executable, "-m", "tf_triplet.cli.serve"),
        *(f"--workdir={workdir}", "--port=0"),
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        if "localhost:" not in line:
            raise ValueError("The server did not start; see above.")
        print(line, end="")
        return _query_all(workdir, query_domain, line.split()[-1])
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def _query_all(workdir: Path, query_domain: str, address: str) -> float:
    from tf_triplet import builders, client

    config = builders.load_config(workdir)
    test = builders.build_catalog(config).split("test")
    queries = test.domain(query_domain)
    others = set(
        test.row_product_ids[
            test.domain_names[test.domains] != query_domain
        ].astype(str)
    )
    right, asked, shown = 0, 0, []
    every = max(1, len(queries) // _SHOWN.value)
    for start in range(0, len(queries), 32):
        paths = queries.paths[start : start + 32]
        products = queries.row_product_ids[start : start + 32].astype(str)
        images = [client.read_image(path) for path in paths]
        answers = client.query(images, address)
        for i, (answer, product) in enumerate(zip(answers, products)):
            # Whose product no other vendor drew, has nothing to find.
            if product not in others:
                continue
            asked += 1
            right += answer[0].product_id == product
            if (start + i) % every == 0 and len(shown) < _SHOWN.value:
                shown.append((paths[i], product, answer[:5]))
    _draw(workdir / "neighbours.png", shown)
    return right / max(asked, 1)


def _draw(path: Path, shown) -> None:
    from tf_triplet.reporting import neighbors

    neighbors.neighbor_grid(
        path,
        [query for query, _, _ in shown],
        [
            [
                neighbors.Neighbor(
                    path=found.path,
                    score=found.score,
                    correct=found.product_id == product,
                    label=found.product_id,
                )
                for found in answer
            ]
            for _, product, answer in shown
        ],
        [product for _, product, _ in shown],
        "Unseen products: the query, and the five nearest that were served",
    )


def run() -> None:
    """The console script."""
    errors.start(main)


if __name__ == "__main__":
    run()
