"""A stand-in for the desktop of 3D Slicer, for tests: real MRML scene, PySide6 widgets.

    pythonqt     PySide6 behind an adapter that is as strict as PythonQt
    widgets      the ctk and qMRML widgets the panel uses
    application  slicer.app, the scene, files, the layout manager
    scripted     ScriptedLoadableModule and parameterNodeWrapper

The MRML classes, slicer.util and VTK are the real ones, from the wheel slicer-core.
"""
