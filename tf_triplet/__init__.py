"""Product visual search: a shopper's photo in, the same product out.

The public names stand in `__init__.pyi`. Each is imported when it is first
used, so `import tf_triplet` does not import TensorFlow.
"""

import lazy_loader

from tf_triplet.version import __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *__all__]
