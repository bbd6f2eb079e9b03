"""Formats that learned sets are exported to and read from; a format's module is imported when it is used."""

from __future__ import annotations

from ddfw import Format, hookimpl, offers


def _format(name: str, summary: str, patterns: tuple[str, ...] = ()) -> Format:
    """A format whose module and functions bear its name."""
    reader, writer = f"ddfw_plugins.formats.{name}:read_{name}", f"ddfw_plugins.formats.{name}:write_{name}"
    return Format(name=name, summary=summary, patterns=patterns, reader=reader, writer=writer)


SafetensorsFormatPlugin = offers(
    "ddfw_register_formats",
    _format("safetensors", "set.safetensors: images in training space and target probabilities, exact."),
)
NpzFormatPlugin = offers(
    "ddfw_register_formats",
    _format("npz", "set.npz for NumPy: images, targets, labels, pixels, step size, class names; exact."),
)
MttFormatPlugin = offers(
    "ddfw_register_formats",
    _format(
        "mtt",
        "images_best.pt, labels_best.pt and lr_best.pt, as MTT and DATM write and read them; exact.",
        ("images*.pt",),
    ),
)


class ImageFolderFormatPlugin:
    """Offers the format `imagefolder`."""

    @staticmethod
    @hookimpl
    def ddfw_register_formats() -> list[Format]:
        """Called when a learned set is exported or read."""
        from ddfw_plugins.picture_files import SUFFIXES

        patterns = [f"*/*{ending}" for suffix in sorted(SUFFIXES) for ending in (suffix, suffix.upper())]
        return [_format("imagefolder", "8-bit pictures in a folder for each class: PNGs, rounded.", tuple(patterns))]
