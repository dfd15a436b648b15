"""What of a machine decides about a recipe."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Machine:
    """What of a machine decides about a recipe.

    Attributes:
        gpus: Number of GPUs.
        half_precision: Whether it multiplies 16-bit floats faster: float16 on
            its GPUs, bfloat16 on its processor.

    Example:

    >>> from tf_triplet.builders import Machine
    >>> Machine(gpus=1, half_precision=True).gpus
    1
    """

    gpus: int = 0
    half_precision: bool = False

    @classmethod
    def detect(cls) -> Machine:
        """Returns the machine that the program runs on."""
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if not gpus:
            return cls(0, _has_bfloat16())
        details = tf.config.experimental.get_device_details
        # Since Volta, NVIDIA's GPUs multiply float16 in tensor cores.
        capabilities = [
            details(gpu).get("compute_capability", (0, 0)) for gpu in gpus
        ]
        return cls(len(gpus), min(capabilities) >= (7, 0))


def image_size_for(machine: Machine) -> int:
    """Returns the side of the images that suits a machine, in pixels.

    Args:
        machine: The machine.

    Example:

    >>> from tf_triplet import builders
    >>> builders.image_size_for(builders.Machine(gpus=0))
    64
    """
    return 224 if machine.gpus else 64


def _has_bfloat16() -> bool:
    """Tells whether the processor multiplies bfloat16."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next(
                (line for line in file if line.startswith("flags")), ""
            )
    except OSError:  # Another system than Linux does not tell.
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))
