"""Finds parts of a schedule that a run never reaches.

A run of few steps with a recipe for many keeps its first learning rate, or
stays in its warm-up, and nothing else shows it.
"""

from __future__ import annotations

from collections.abc import Sequence


def unreached(
    steps: int,
    schedule: str,
    boundaries: Sequence[int],
    warmup_steps: int,
    memory_warmup: int = 0,
    collapse_every: int = 0,
    head_warmup_steps: int = 0,
) -> list[str]:
    """Describes what lies beyond the last step of a run.

    Args:
        steps: Number of steps of the run.
        schedule: Schedule of the learning rate, see `build_schedule`.
        boundaries: Steps at which "piecewise" divides the rate.
        warmup_steps: Number of steps in which the rate grows.
        memory_warmup: Step from which on a memory is used; 0 if there is none.
        collapse_every: Number of steps between checks for a collapse; 0 for
            none.
        head_warmup_steps: Number of steps in which the backbone rests.

    Returns:
        A sentence or two for each part, with what to change.
    """
    found = []
    # The rate falls in the step after the boundary.
    beyond = [step for step in boundaries if step >= steps - 1]
    if schedule == "piecewise" and beyond:
        whole = len(beyond) == len(tuple(boundaries))
        effect = "never falls" if whole else "does not fall as often as planned"
        found.append(
            f"optimizer.boundaries={tuple(boundaries)}: the learning rate "
            f"{effect}, because the run has {steps} steps. Lower the "
            "boundaries, or set optimizer.schedule=cosine, which ends with "
            "the run."
        )
    if warmup_steps >= steps:
        found.append(
            f"optimizer.warmup_steps={warmup_steps}: the learning rate is "
            f"still growing when the run ends, after {steps} steps. Lower "
            "it, to a tenth of the steps or less."
        )
    if head_warmup_steps >= steps:
        found.append(
            f"optimizer.head_warmup_steps={head_warmup_steps}: the backbone "
            f"never learns, because the run has {steps} steps. Lower it, or "
            "keep it if only the head is to learn."
        )
    if memory_warmup and memory_warmup >= steps:
        found.append(
            f"loss.memory_warmup={memory_warmup}: the memory is never used, "
            f"because the run has {steps} steps. Lower it, or set "
            "loss.memory_size=0."
        )
    if collapse_every > steps:
        found.append(
            f"training.collapse_every={collapse_every}: a collapse of the "
            f"embeddings is never looked for, because the run has {steps} "
            "steps. Lower it."
        )
    return found
