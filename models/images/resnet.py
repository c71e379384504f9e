"""Residual networks in their CIFAR form (He, Zhang, Ren and Sun 2016, arXiv 1512.03385, section 4.2).

6 n + 2 layers: a 3 x 3 convolution to 16 channels, three stages of n blocks with 16, 32 and 64 channels, the mean over all
positions, a linear layer. The first block of stages 2 and 3 halves height and width. Shortcuts have no parameters (option
A): a block that halves takes every other row and column of its input, and zeros for the channels that it adds.

| depth | n | parameters, 3 channels in, 10 classes | multiply-adds at 32 x 32 |
|---|---|---|---|
| 20 | 3 | 269,722 | 40.55 M |
| 32 | 5 | 464,154 | 68.86 M |
| 56 | 9 | 853,018 | 125.49 M |
| 110 | 18 | 1,727,962 | 252.89 M |
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from dropfold.kernels.backend.inputs import check_floating, check_type_of

WIDTHS = (16, 32, 64)


def draw_he(layers: Iterable[tuple[str, nn.Module]]) -> None:
    """Draw the weights of convolutions from N(0, 2 / (outputs x kernel)) (He et al. 2015, equation 14)."""
    for _, module in layers:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), x [B, in_channels, H, W]; stride 2 halves H and W, rounded up."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.added = stride, out_channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.activation1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.activation2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.activation1(self.norm1(self.conv1(x)))))
        return self.activation2(y + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: every other row and column, and zeros for half of the added channels on either side."""
        if self.stride == 1 and not self.added:
            return x
        before = self.added // 2
        return nn.functional.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.added - before)
        )


class ResNet(nn.Module):
    """Logits [B, num_classes] of images [B, in_channels, H, W], of any height and width.

    Args:
        depth: 6 n + 2: 20, 32, 56, 110, ...
        dropout: before the last layer; the paper has none.
    """

    def __init__(
        self, num_classes: int, depth: int = 20, in_channels: int = 3, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6 n + 2, as 20, 32, 56 or 110; got {depth}.")
        first, second, third = WIDTHS
        self.in_channels = in_channels
        self.conv = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(first)
        self.activation = nn.ReLU()
        self.stage1 = _stage(first, first, 1, blocks)
        self.stage2 = _stage(first, second, 2, blocks)
        self.stage3 = _stage(second, third, 2, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(third, num_classes)
        draw_he(self.named_modules())

    draw_weights = staticmethod(draw_he)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.fc.weight, self.in_channels)
        x = self.activation(self.norm(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(self.dropout(self.pool(x).flatten(1)))


def _stage(in_channels: int, out_channels: int, stride: int, blocks: int) -> nn.Sequential:
    later = (BasicBlock(out_channels, out_channels) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride), *later)


def check_images(x: Tensor, weight: Tensor, channels: int, least: int = 1) -> None:
    """Refuse what is no batch of images [B, channels, H, W] of at least `least` rows and columns, in the type and on the
    device of the weights."""
    check_floating(weight=weight, x=x)
    check_type_of("the weights", weight, x=x)
    if x.dim() != 4 or x.shape[1] != channels or min(x.shape) < 1 or min(x.shape[2:]) < least:
        size = f", H and W at least {least}" if least > 1 else ""
        raise ValueError(f"x must be images [B, {channels}, H, W]{size}; got {list(x.shape)}.")
