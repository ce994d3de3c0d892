"""segment_anything's networks.

The package itself also imports its predictor and generator, and with them torchvision and
`torch._dynamo`, which took 2.4 of the 6 s of processor time in which a process that uses a model
starts. So its networks are imported here without the package's own `__init__`; a later
`import segment_anything` runs that, and finds these same classes.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec

PACKAGE = "segment_anything"


def _import_networks() -> None:
    """Import the networks' modules, with a package in place of theirs that has its folder only."""
    found = find_spec(PACKAGE)
    if PACKAGE in sys.modules or found is None:  # the import below says what is missing
        return
    folder = ModuleSpec(PACKAGE, None, is_package=True)
    folder.submodule_search_locations = found.submodule_search_locations
    sys.modules[PACKAGE] = module_from_spec(folder)
    try:
        import_module(f"{PACKAGE}.build_sam")
    finally:
        del sys.modules[PACKAGE]


_import_networks()

from segment_anything.build_sam import (  # noqa: E402
    build_sam_vit_b,
    build_sam_vit_h,
    build_sam_vit_l,
)
from segment_anything.modeling import (  # noqa: E402
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from segment_anything.modeling.common import LayerNorm2d  # noqa: E402
from segment_anything.modeling.image_encoder import Block  # noqa: E402

__all__ = [
    "Block",
    "LayerNorm2d",
    "MaskDecoder",
    "PromptEncoder",
    "Sam",
    "TwoWayTransformer",
    "build_sam_vit_b",
    "build_sam_vit_h",
    "build_sam_vit_l",
]
