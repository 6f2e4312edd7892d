"""SynthCT: the images a PET/MR or MR-only workflow lacks, and how far each can be trusted.

Research use only, not for diagnosis. The package imports nothing heavy: torch is loaded by the
modules that compute with it.
"""

from __future__ import annotations

__version__ = "0.1.0"
