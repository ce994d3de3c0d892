"""Make `import torchvision` work beside a CPU-only torch.

Where torchvision's CUDA build is installed beside a CPU build of torch, its compiled operators do
not load, and `import torchvision` fails because `torchvision::nms` does not exist. This module
declares the two operators that are named at import and implements `nms` on the CPU. It does nothing
if torchvision imports without help. `engine.sam` itself does without torchvision.
"""

from __future__ import annotations

from typing import Any

import torch

from engine.core.boxes import nms

_library: Any = None


def ensure_torchvision() -> None:
    """Register the missing operators. Call it before the first import of torchvision or
    segment_anything; further calls do nothing."""
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

    extension._has_ops = lambda: True  # else torchvision refuses to call nms


def _nms_cpu(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    kept = nms(dets.detach().numpy(), scores.detach().numpy(), iou_threshold)
    return torch.from_numpy(kept)
