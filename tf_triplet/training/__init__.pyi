from .distribution import (
    build_strategy,
)
from .evaluator import (
    StepChoice,
)
from .guards import (
    CollapseError,
    CollapseGuard,
    DivergedError,
)
from .learner import (
    Learner,
)
from .loop import (
    Settings,
    train,
)
from .memory import (
    CrossBatchMemory,
)
from .schedules import (
    build_optimizer,
    build_schedule,
)
from .stops import (
    TrainingStopped,
)
from .tasks import (
    Tasks,
)

__all__ = [
    "CollapseError",
    "CollapseGuard",
    "CrossBatchMemory",
    "DivergedError",
    "Learner",
    "Settings",
    "StepChoice",
    "Tasks",
    "TrainingStopped",
    "build_optimizer",
    "build_schedule",
    "build_strategy",
    "train",
]
