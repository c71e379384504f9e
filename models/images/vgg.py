"""VGG-16 with BatchNorm in the form that is used on CIFAR (Simonyan and Zisserman 2015, configuration D).

13 convolutions of 3 x 3 in five groups, each followed by a max over 2 x 2, and a single linear layer. Convolutions have no
bias, as BatchNorm follows. With 3 channels in and 10 classes: 14,724,042 parameters, and 313.20 M multiply-adds at 32 x 32.

The last max is over all positions that are left. At 32 x 32 these are 2 x 2, which makes it the fifth max of the published
form; so other sizes fit as well. Images of 28 x 28 become 14, 7, 3 and 1 wide: the last row and column of 7 are left out.
"""

from __future__ import annotations

from torch import Tensor, nn

from dropfold.models.images.resnet import check_images, draw_he

GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SMALLEST = 2 ** (len(GROUPS) - 1)


class VGG16(nn.Module):
    """Logits [B, num_classes] of images [B, in_channels, H, W], H and W at least 16.

    Args:
        dropout: before the last layer.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.in_channels = in_channels
        layers: list[nn.Module] = []
        before = in_channels
        for i, group in enumerate(GROUPS):
            layers += [nn.MaxPool2d(2)] if i else []
            for width in group:
                layers += [
                    nn.Conv2d(before, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                before = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(before, num_classes)
        draw_he(self.named_modules())

    draw_weights = staticmethod(draw_he)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.fc.weight, self.in_channels, SMALLEST)
        return self.fc(self.dropout(self.pool(self.features(x)).flatten(1)))
