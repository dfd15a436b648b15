from .augmentation import (
    Augmentation,
)
from .catalog import (
    Catalog,
)
from .ids import (
    comparable_ids,
    normalize_ids,
    stable_hash,
)
from .pipeline import (
    BadImages,
    evaluation_batches,
    training_batches,
)
from .preprocessing import (
    InputSpec,
    decode_image,
    load_image,
    load_images,
)
from .sampling import (
    GroupedSampler,
    Sampler,
)
from .sources.emoji import (
    read_emoji,
)
from .sources.folder import (
    read_folder,
)
from .sources.manifest import (
    read_manifest,
)
from .sources.rendered import (
    read_rendered,
)

__all__ = [
    "Augmentation",
    "BadImages",
    "Catalog",
    "GroupedSampler",
    "InputSpec",
    "Sampler",
    "comparable_ids",
    "decode_image",
    "evaluation_batches",
    "load_image",
    "load_images",
    "normalize_ids",
    "read_emoji",
    "read_folder",
    "read_manifest",
    "read_rendered",
    "stable_hash",
    "training_batches",
]
