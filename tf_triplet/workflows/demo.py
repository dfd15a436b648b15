"""Trains, evaluates, exports, serves and asks on real images: `demo(folder)`.

Half of the emoji are trained on. The other half are evaluated before and after
training, indexed as three vendors draw them, and looked up by the drawings of
the fourth vendor.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tf_triplet import builders
from tf_triplet import config as configs
from tf_triplet.training import folder_lock
from tf_triplet.workflows import child_programs

# For each source, the domain that queries and the domains that are searched.
_DOMAINS = {
    "emoji": ("google", "twitter,fluent,openmoji"),
    "rendered": ("street", "studio"),
}
_IMAGES_PER_REQUEST = 32
_NEIGHBORS = 5


def demo(
    workdir: str | Path,
    configs_folder: str | Path = "configs",
    steps: int = 300,
    shown: int = 8,
) -> dict[str, Any]:
    """Runs every program once, as a user would, and collects the metrics.

    Without network, the rendered catalog takes the place of the emoji. The
    folder gets `summary.json` and `neighbours.png`. Ctrl-C or SIGTERM also
    stops the program that runs, and waits until it has ended.

    Args:
        workdir: The folder of the run. A former run in it is deleted.
        configs_folder: Folder of `emoji.py` and `rendered.py`.
        steps: Training steps.
        shown: Number of queries in `neighbours.png`.

    Returns:
        The content of `summary.json`: Recall@1 before and after training and
        of the server, recall of ScaNN, and the seconds of every stage.

    Raises:
        ValueError: If a program fails.
        OSError: If another process trains in the folder.

    Example:

    >>> from tf_triplet import workflows
    >>> summary = workflows.demo("runs/demo")  # doctest: +SKIP
    >>> summary["recall_at_1_trained"]  # doctest: +SKIP
    0.5468
    """
    with child_programs.interrupted_by_sigterm():
        return _demo(Path(workdir), Path(configs_folder), steps, shown)


def _demo(
    workdir: Path, configs_folder: Path, steps: int, shown: int
) -> dict[str, Any]:
    if any((workdir / f).exists() for f in ("summary.json", "config.json")):
        with folder_lock.locked(workdir):
            shutil.rmtree(workdir)
    seconds: dict[str, float] = {}
    with _timed("prepare", seconds):
        source = _choose_source()
    query_domain, gallery = _DOMAINS[source]
    config = configs_folder / f"{source}.py"
    folder = f"--workdir={workdir}"
    with _timed("train", seconds):
        override = f"--config.training.steps={steps}"
        _run("train", f"--config={config}", folder, override)
    with _timed("evaluate", seconds):
        _run("evaluate", folder, "--baseline=pretrained")
    with _timed("export", seconds):
        _run("export", folder, "--split=test", f"--domains={gallery}")
    with _timed("query", seconds), _served(workdir) as address:
        recall = _query_all(workdir, query_domain, address, shown)
    metrics = workdir / "report" / "evaluation-test.json"
    report = json.loads(metrics.read_text())
    version = workdir / "models" / "product_search" / "1"
    record = json.loads((version / "assets.extra/fingerprint.json").read_text())
    summary = {
        "source": source,
        "recall_at_1_pretrained": report["baseline"]["overall"]["recall@1"],
        "recall_at_1_trained": report["trained"]["overall"]["recall@1"],
        "served_recall_at_1": recall,
        "scann_recall_at_10": record["parity"]["recall"],
        "seconds": seconds,
    }
    text = json.dumps(summary, indent=2)
    (workdir / "summary.json").write_text(text + "\n")
    return summary


@contextlib.contextmanager
def _timed(stage: str, seconds: dict[str, float]) -> Iterator[None]:
    print(f"== {stage}", flush=True)
    start = time.monotonic()
    yield
    seconds[stage] = round(time.monotonic() - start, 1)


def _choose_source() -> str:
    """Returns "emoji", or "rendered" if the emoji cannot be fetched."""
    from tf_triplet.data import fetch

    config = configs.paper_config()
    config.data.source = "emoji"
    try:
        builders.build_catalog(config)
        builders.fetch_registry_weights()
    except fetch.FetchError as error:
        print(
            f"The emoji cannot be fetched: {error}\n"
            "NO NETWORK: the demo continues with rendered products and random "
            "weights; its metrics are not those of the README."
        )
        return "rendered"
    return "emoji"


def _run(verb: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"tf_triplet.cli.{verb}", *arguments]
    code = child_programs.run(command)
    if code:
        raise ValueError(
            f"The stage {verb} failed with exit code {code}; its message is "
            f"above. The command was: {' '.join(command)}"
        )


@contextlib.contextmanager
def _served(workdir: Path) -> Iterator[str]:
    """Runs a server, and yields its address."""
    command = [
        *(sys.executable, "-m", "tf_triplet.cli.serve"),
        *(f"--workdir={workdir}", "--port=0"),
    ]
    server = child_programs.start(command, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        if "localhost:" not in line:
            raise ValueError("The server did not start; see above.")
        print(line, end="")
        yield line.split()[-1]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def _query_all(
    workdir: Path, query_domain: str, address: str, shown: int
) -> float:
    """Asks for all images that are not indexed, and draws some of them.

    Returns:
        The share of queries whose first answer is the right product.
    """
    from tf_triplet import client

    config = builders.load_config(workdir)
    test = builders.build_catalog(config).split("test")
    queries = test.domain(query_domain)
    other = test.domain_names[test.domains] != query_domain
    others = set(test.row_product_ids[other].astype(str))
    right, asked, drawn = 0, 0, []
    every = max(1, len(queries) // shown)
    for start in range(0, len(queries), _IMAGES_PER_REQUEST):
        rows = slice(start, start + _IMAGES_PER_REQUEST)
        paths = queries.paths[rows]
        products = queries.row_product_ids[rows].astype(str)
        images = [
            client.read_image(path, max_megapixels=config.data.max_megapixels)
            for path in paths
        ]
        answers = client.query(images, address)
        for i, (answer, product) in enumerate(zip(answers, products)):
            # A product that no other vendor drew has nothing to be found.
            if product not in others:
                continue
            asked += 1
            right += answer[0].product_id == product
            if (start + i) % every == 0 and len(drawn) < shown:
                drawn.append((paths[i], product, answer[:_NEIGHBORS]))
    _draw(workdir / "neighbours.png", drawn)
    return right / max(asked, 1)


def _draw(path: Path, drawn: Sequence[tuple[str, str, list]]) -> None:
    """Draws `(image, product, neighbors)`, one row each."""
    from tf_triplet.reporting import neighbors

    found = [
        [
            neighbors.Neighbor(
                path=one.path,
                score=one.score,
                correct=one.product_id == product,
                label=one.product_id,
            )
            for one in answer
        ]
        for _, product, answer in drawn
    ]
    neighbors.neighbor_grid(
        path,
        [image for image, _, _ in drawn],
        found,
        [product for _, product, _ in drawn],
        "Unseen products: the query, and the five nearest that were served",
    )
