"""An ablation of the paper's method: what does each part of it contribute?

Command:  tf-triplet-compare --study=configs/studies/emoji_ablation.py \\
              --output=runs/ablation
Needs:    Two CPU cores and one hour for three seeds. The images and the weights
          of ResNet50 are fetched from package registries once.
Result:   docs/ablation.md
Smoke:    --methods=pretrained,paper --seeds=0

Every method is the recipe `paper` below, except for what its name says. The
recipe has the sampling, mining, margin and reduction of the paper, at a scale
for two cores: 32 pixels, 32 pairs and 100 steps of Adam, with frozen batch
normalization.
"""

from tf_triplet.config import paper_config
from tf_triplet.workflows import Method


def recipe(**changes):
    """Returns the paper's sampling and loss, with fields changed.

    Args:
        **changes: Values by field, with `__` for the dot: `loss__margin=0.2`.
    """
    config = paper_config()
    config.data.source = "emoji"
    # A study reports the last step, so it needs no products to choose one.
    config.data.validation_fraction = 0.0
    config.data.image_size = 32
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
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 20
    config.training.steps = 100
    config.training.checkpoint_every = 1000
    config.evaluation.every = 0
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return config


def get_study():
    """Returns the methods, grouped by the question that they answer."""
    study = {
        "pretrained": Method(recipe(), "The paper's system", trained=False)
    }

    def add(group, name, **changes):
        study[name] = Method(recipe(**changes), group)

    add("The paper's system", "random_pairs", loss__mining="random")
    add("The paper's system", "paper")
    group = "Probability of a single-category minibatch (paper: 0.8)"
    for share in (0.0, 0.5, 1.0):
        name = f"single_category={share}"
        add(group, name, sampling__single_category_probability=share)
    group = "Margin of the cosine (paper: 0.1)"
    for margin in (0.05, 0.2, 0.4):
        add(group, f"margin={margin}", loss__margin=margin)
    group = "Embedding size (paper: 512; here 128)"
    for size in (32, 512):
        add(group, f"embedding={size}", model__embedding_size=size)
    group = "Pairs a minibatch (paper: 64; here 32)"
    for pairs in (8, 16, 64):
        add(group, f"pairs={pairs}", sampling__units_per_batch=pairs)
    group = "Soft margin, log(1 + exp(x)), in place of the hinge"
    add(group, "soft", loss__soft=True, loss__margin=0.0)
    group = "Negatives of the whole batch, or of each of 2 replicas"
    add(group, "replicas=2_global", training__replicas=2)
    add(
        group,
        "replicas=2_each_its_own",
        training__replicas=2,
        loss__scope="replica",
    )
    return study
