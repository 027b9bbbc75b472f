"""transferkit: transfer learning for image classification.

The public names stand in ``__init__.pyi`` and load on first use, so that ``import transferkit``
stays fast and does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
