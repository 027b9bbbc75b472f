"""Taking a network's classifier off, and pooling what an encoder without one returns."""

from __future__ import annotations

from torch import Tensor, nn

from transferkit.errors import ConfigError


class PooledEncoder(nn.Module):
    """An encoder whose tokens or maps are averaged into one vector an image.

    Args:
        encoder: A network that returns tokens (B, N, D) or maps (B, D, H, W).
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to features (B, D)."""
        output: Tensor = self.encoder(images)
        return output.mean(dim=(2, 3)) if output.ndim == 4 else output.mean(dim=1)


def pool_to_vectors(module: nn.Module, shape: tuple[int, ...], *, name: str) -> nn.Module:
    """Wrap a network that returns tokens or maps so that it returns one vector an image.

    Args:
        module: The network.
        shape: Shape of its output, the batch first.
        name: The backbone, for the message.

    Raises:
        ConfigError: Its output is neither vectors, tokens nor maps.
    """
    if len(shape) == 2:
        return module
    if len(shape) in (3, 4):
        return PooledEncoder(module)
    raise ConfigError(
        f"{name}: expected features (B, D), tokens (B, N, D) or maps (B, D, H, W), "
        f"got an output of shape {shape}"
    )


def replace_module(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new``, in place, where the module of the dotted ``name`` was."""
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, new)
