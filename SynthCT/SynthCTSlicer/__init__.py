"""The panel of SynthCT in 3D Slicer: everything that knows qt, MRML and slicer.

    panel        puts the parts together; the module's widget holds one
    volumes      1  what is in the scene and what it is          volumes_view
    task         2  what is to be made of it, and by which model  task_view
    run          3  jobs: start, follow, cancel, queue            run_view
    review       4  looking at a result                           review_view
    decide       5  accept or reject, export                      decide_view
    runner       a job folder's worker as a process
    mrml         the bridge to the scene
    library      what the panel takes from SynthCTLib, when it can be imported
    packages     the Python packages it needs
    parameters   the state of the panel as a parameter node

A part is a logic with a state and signals, which knows no widget, and a view, which wires widgets
to it. No image is computed here.
"""
