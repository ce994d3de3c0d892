"""The figures of quality on one queue: detector, gold tasks, audits, verifier, choice of images,
browse.

`python -m tests.benchmarks.engine_value --quality` runs the benchmarks of PARTS one after another,
each in a process of its own, and joins their last lines into one JSON object. A part whose result
is in the folder is not run again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PARTS = {
    "prefill": ("--data", "{data}"),
    "quality_gold": ("--data", "{data}/nuclei/val"),
    "quality_audit": (),
    "quality_verifier": ("--data", "{data}", "--folder", "{folder}/verifier"),
    "quality_choice": ("--data", "{data}", "--folder", "{folder}/choice"),
    "browse": (),
}
"""Benchmarks and their options."""


class PartError(Exception):
    """A benchmark failed; its messages are above."""


def run_quality(data: Path, folder: Path) -> dict[str, Any]:
    """Run or resume the parts and return their figures in one dict; those of a later part replace
    earlier ones of the same name.

    Args:
        data: folder of the domains' COCO-style folders.
        folder: for results and caches.

    Raises:
        PartError: a part failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, options in PARTS.items():
        kept = folder / f"{name}.json"
        if not kept.exists():
            given = [option.format(data=data, folder=folder) for option in options]
            command = [sys.executable, "-m", f"tests.benchmarks.{name}", *given, "--json"]
            print(" ".join(command[1:]), file=sys.stderr, flush=True)
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise PartError(f"tests.benchmarks.{name} ended with {done.returncode}")
            kept.write_text(done.stdout.strip().splitlines()[-1])
        found |= json.loads(kept.read_text())
    return found
