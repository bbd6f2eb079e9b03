"""Papers behind settings that are no component of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddfw.config.run_config import COMPONENT_TABLES

if TYPE_CHECKING:
    from ddfw.config.run_config import RunConfig

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddfw.config.run_config import RunConfig

FTD = """@inproceedings{du2023ftd,
  title = {Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation},
  author = {Du, Jiawei and Jiang, Yidi and Tan, Vincent Y. F. and Zhou, Joey Tianyi and Li, Haizhou},
  booktitle = {CVPR},
  year = {2023}
}"""
DATM = """@inproceedings{guo2024datm,
  title = {Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching},
  author = {Guo, Ziyao and Wang, Kai and Cazenavette, George and Li, Hui and Zhang, Kaipeng and You, Yang},
  booktitle = {ICLR},
  year = {2024}
}"""
TESLA = """@inproceedings{cui2023tesla,
  title = {Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory},
  author = {Cui, Justin and Wang, Ruochen and Si, Si and Hsieh, Cho-Jui},
  booktitle = {ICML},
  year = {2023}
}"""


def setting_citations(config: RunConfig) -> list[str]:
    """BibTeX entries of the settings that differ from the plain method."""
    outer = config.outer
    asked = (
        (config.experts.optimiser == "gsam" or outer.ema > 0, FTD),
        (outer.images == "recognised" or outer.skip_above is not None, DATM),
        (config.gradient.method == "tesla", TESLA),
    )
    return [citation for said, citation in asked if said]


def citations(config: RunConfig) -> list[str]:
    """The BibTeX entries of the run's components and of settings that come from a paper, each once."""
    found = [getattr(config, table).citation for table in COMPONENT_TABLES]
    found += setting_citations(config)
    return list(dict.fromkeys(c for c in found if c))
