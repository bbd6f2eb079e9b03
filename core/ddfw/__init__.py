"""ddfw: dataset distillation with every method a plugin.

Everything public is named in `__init__.pyi` and loaded on first use, so that `from ddfw import hookimpl` does not load
torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
