"""Data sets that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import offers

DigitsPlugin = offers("ddfw_register_datasets", "ddfw_plugins.datasets.digits:Digits")
NpzPlugin = offers("ddfw_register_datasets", "ddfw_plugins.datasets.npz:Npz")
ImageFolderPlugin = offers("ddfw_register_datasets", "ddfw_plugins.datasets.imagefolder:ImageFolder")
Cifar10Plugin = offers("ddfw_register_datasets", "ddfw_plugins.datasets.cifar:Cifar10")
Cifar100Plugin = offers("ddfw_register_datasets", "ddfw_plugins.datasets.cifar:Cifar100")
MnistPlugin = offers("ddfw_register_datasets", "ddfw_plugins.datasets.mnist:Mnist")
FashionMnistPlugin = offers("ddfw_register_datasets", "ddfw_plugins.datasets.mnist:FashionMnist")
SvhnPlugin = offers("ddfw_register_datasets", "ddfw_plugins.datasets.svhn:Svhn")
TinyImageNetPlugin = offers("ddfw_register_datasets", "ddfw_plugins.datasets.tinyimagenet:TinyImageNet")
