"""Head label maps turned into simulated MR and CT pairs, and PETs."""

from SynthCTLib.phantom.activity import UptakeOptions, make_fdg
from SynthCTLib.phantom.options import Contrast, PhantomOptions
from SynthCTLib.phantom.pair import PhantomPair, clean_labels, make_pair

__all__ = [
    "Contrast",
    "PhantomOptions",
    "PhantomPair",
    "UptakeOptions",
    "clean_labels",
    "make_fdg",
    "make_pair",
]
