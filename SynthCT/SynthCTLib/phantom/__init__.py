"""Head label maps turned into simulated MR and CT pairs."""

from SynthCTLib.phantom.options import Contrast, PhantomOptions
from SynthCTLib.phantom.pair import PhantomPair, clean_labels, make_pair

__all__ = ["Contrast", "PhantomOptions", "PhantomPair", "clean_labels", "make_pair"]
