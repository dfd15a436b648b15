"""Does the paper's recipe learn, given time? Its curves over the steps.

Command:  tf-triplet-compare --study=configs/studies/paper_curves.py \\
              --output=runs/curves --seeds=0
Needs:    Two CPU cores and about twenty minutes for each method. The images and
          the weights of ResNet50 are fetched from package registries once.
Result:   curves.md and table.md in the folder of the output
Smoke:    --study=configs/studies/paper_curves.py:2 --methods=paper

All methods have 32 pairs of 64 pixels a minibatch, and their metrics on
validation products are recorded every 100 steps. The text behind the colon is
the number of steps, 1,000 by default.
"""

from tf_triplet.config import paper_config
from tf_triplet.workflows import Method

_SGD = {"optimizer__name": "sgd", "optimizer__learning_rate": 1e-2}


def recipe(steps, **changes):
    """Returns the paper's sampling and loss with Adam, with fields changed.

    Args:
        steps: Number of steps.
        **changes: Values by field, with `__` for the dot: `loss__margin=0.2`.
    """
    config = paper_config()
    config.data.source = "emoji"
    config.data.validation_fraction = 0.1
    config.data.image_size = 64
    config.sampling.units = "pairs"
    config.sampling.units_per_batch = 32
    # A mirrored arrow or hand is another product.
    config.augment.flip = False
    config.augment.min_crop = 0.8
    config.model.backbone = "resnet50"
    config.model.weights = "registry"
    config.model.embedding_size = 128
    config.model.batch_norm = "frozen"
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_steps = 0
    config.training.steps = steps
    config.training.checkpoint_every = 500
    # A collapse is a result here.
    config.training.stop_on_collapse = False
    config.evaluation.every = min(100, steps)
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return config


def get_study(steps="1000"):
    """Returns the methods, grouped by the question that they answer.

    Args:
        steps: Number of steps.
    """
    steps = int(steps)
    study = {
        "pretrained": Method(recipe(steps), "The paper's mining", trained=False)
    }

    def add(group, name, **changes):
        study[name] = Method(recipe(steps, **changes), group)

    add("The paper's mining", "paper")
    add("The paper's mining", "random_negatives", loss__mining="random")
    for share in (0.0, 0.5):
        add(
            "Probability of a single-category minibatch (paper: 0.8)",
            f"single_category={share}",
            sampling__single_category_probability=share,
        )
    group = "Batch normalization in training mode"
    add(group, "paper_train", model__batch_norm="train")
    add(
        group,
        "random_negatives_train",
        loss__mining="random",
        model__batch_norm="train",
    )
    group = "The paper's optimizer, SGD"
    add(group, "paper_sgd", **_SGD)
    add(group, "paper_sgd_train", model__batch_norm="train", **_SGD)
    return study
