"""``python -m SynthCTLib``: the command line, where its script is not on the path (in Slicer)."""

from SynthCTLib.cli.start import main

if __name__ == "__main__":
    main()
