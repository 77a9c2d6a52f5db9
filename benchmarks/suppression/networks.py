"""The networks that are trained, from the number of classes."""

from __future__ import annotations

from torch import nn

from pan_callbacks.layers import convolutions
from tests.support.real import efficientnet_lite0

#: Channels and stride of the convolutions of the small CNN.
SMALL = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1))


def small_cnn(classes: int) -> nn.Module:
    """Five convolutions with batch norm, 208 neurons, global average pooling."""
    layers: list[nn.Module] = []
    inputs = 1
    for outputs, stride in SMALL:
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def small_cnn_without_norm(classes: int) -> nn.Module:
    """The same without batch norm: biases, and weights as He et al. begin."""
    layers: list[nn.Module] = []
    inputs = 1
    for outputs, stride in SMALL:
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def red_green_net(classes: int) -> nn.Module:
    """Four convolutions of 3×3 with batch norm, 128 neurons, global average pooling; each sees 19 px of the image."""
    layers: list[nn.Module] = []
    for inputs, stride in ((3, 2), (32, 1), (32, 2), (32, 1)):
        layers += [nn.Conv2d(inputs, 32, 3, stride, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


def resnet18(classes: int) -> nn.Module:
    """timm's ResNet-18 on one channel."""
    import timm

    return timm.create_model("resnet18", in_chans=1, num_classes=classes)


def pretrained(classes: int) -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights and a new head."""
    net = efficientnet_lite0()
    net.reset_classifier(classes)
    return net.train()


def set_padding(net: nn.Module, mode: str) -> nn.Module:
    """Makes every convolution of a network pad as ``padding_mode`` says; the weights stay."""
    for conv in convolutions(net).values():
        conv.padding_mode = mode  # the amounts that F.pad needs are there in every mode
    return net
