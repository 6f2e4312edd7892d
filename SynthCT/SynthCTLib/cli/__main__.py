"""``python -m SynthCTLib.cli``: the command line, for launchers that start modules (torchrun)."""

from SynthCTLib.cli.start import main

main()
