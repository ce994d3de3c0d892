"""Make `import torchvision` work beside a CPU-only torch.

Some machines have a CPU build of torch and torchvision's CUDA build, because no CPU build of
torchvision was to be had. Its compiled operators then do not load, and `import torchvision` dies on
`torchvision::nms`, which it wants to describe. This module declares the two operators that are
named at import and gives `nms` a CPU implementation. Where torchvision is whole it does nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from engine.core.boxes import nms

_library: Any = None


def ensure_torchvision() -> None:
    """Call before the first import of torchvision or segment_anything; calling again is free."""
    global _library
    if _library is not None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return
    library: Any = torch.library
    _library = library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define(
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    )
    _library.impl("nms", _nms_cpu, "CPU")
    from torchvision import extension

    extension._has_ops = lambda: True  # it refuses to call nms where its own did not load


def _nms_cpu(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    kept = nms(dets.detach().numpy(), scores.detach().numpy(), iou_threshold)
    return torch.from_numpy(kept)
