"""Results for other software: image files with a sidecar, Interfile, DICOM, and sending to a PACS.

Each format has a module that writes volumes into a folder and returns the names of the files. The
folder itself, complete or absent, is the business of ``parcel``.
"""
