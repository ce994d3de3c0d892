"""The consoles of commands: results on standard output, everything else on standard error."""

from __future__ import annotations

import sys

from rich.console import Console

console = Console(width=None if sys.stdout.isatty() else 140)
errors = Console(stderr=True)
