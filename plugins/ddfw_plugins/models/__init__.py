"""Networks that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import offers

ConvNetPlugin = offers("ddfw_register_models", "ddfw_plugins.models.convnet:ConvNet")
MlpPlugin = offers("ddfw_register_models", "ddfw_plugins.models.mlp:Mlp")
AlexNetPlugin = offers("ddfw_register_models", "ddfw_plugins.models.alexnet:AlexNet")
VggPlugin = offers("ddfw_register_models", "ddfw_plugins.models.vgg11:Vgg11")
ResNetPlugin = offers("ddfw_register_models", "ddfw_plugins.models.resnet18:ResNet18")
TorchvisionPlugin = offers("ddfw_register_models", "ddfw_plugins.models.torchvision:Torchvision")
