"""Builds the objects of a run from a config: catalog, networks, loss, ...

The public names stand in `__init__.pyi`; each is imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
