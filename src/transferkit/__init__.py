"""transferkit: transfer learning for image classification."""

from transferkit._version import __version__ as __version__
