"""Product visual search: a shopper's photo in, the same product out.

The public names stand in `__init__.pyi`. Each is imported when it is first
used, so `import tf_triplet` does not import TensorFlow.
"""

import os

import lazy_loader

from tf_triplet.version import __version__

# TensorFlow uses oneDNN by default only on processors with AVX-512 VNNI. A
# training step on one with AVX2 takes a quarter of the time with it. A value
# of the user's own wins; it is read when TensorFlow is first imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *__all__]
