"""One function for each program, from its options to its result.

The functions are imported here, so `tf_triplet.workflows.evaluate` is the
function, although its file has the same name. Importing them is cheap, because
they import TensorFlow when they are called.
"""

from tf_triplet.workflows.check_data import (
    DataCheck,
    check_data,
    verify_counts,
)
from tf_triplet.workflows.compare import compare
from tf_triplet.workflows.comparison import Comparison, StudyRun
from tf_triplet.workflows.demo import demo
from tf_triplet.workflows.embed_catalog import EmbeddingCounts, embed_catalog
from tf_triplet.workflows.evaluate import evaluate
from tf_triplet.workflows.evaluation_report import EvaluationReport
from tf_triplet.workflows.export import export
from tf_triplet.workflows.options import EvaluateOptions, ExportOptions
from tf_triplet.workflows.published import Published
from tf_triplet.workflows.study import (
    Method,
    choose_methods,
    read_configs,
    read_study,
)
from tf_triplet.workflows.train import train
from tf_triplet.workflows.train_folder import TrainResult

__all__ = [
    "Comparison",
    "DataCheck",
    "EmbeddingCounts",
    "EvaluateOptions",
    "EvaluationReport",
    "ExportOptions",
    "Method",
    "Published",
    "StudyRun",
    "TrainResult",
    "check_data",
    "choose_methods",
    "compare",
    "demo",
    "embed_catalog",
    "evaluate",
    "export",
    "read_configs",
    "read_study",
    "train",
    "verify_counts",
]
