"""The state of the panel as a parameter node, saved and restored with the scene."""

from typing import Annotated

import slicer
from slicer.parameterNodeWrapper import Default, parameterNodeWrapper


@parameterNodeWrapper
class PanelParameters:
    """What the user chose. Images of a run are found by the attributes that they carry."""

    mr: slicer.vtkMRMLScalarVolumeNode
    ct: slicer.vtkMRMLScalarVolumeNode
    synthetic_ct: slicer.vtkMRMLScalarVolumeNode
    pet: slicer.vtkMRMLScalarVolumeNode
    nac_pet: slicer.vtkMRMLScalarVolumeNode
    task: Annotated[str, Default("mr-to-ct")]
    model: str
    device: Annotated[str, Default("auto")]
    registration: Annotated[str, Default("rigid")]
    bias_correction: Annotated[bool, Default(True)]
    remove_table: Annotated[bool, Default(True)]
    head_field_mm: Annotated[float, Default(170.0)]
    convention: str
    anatomy: str
    run: str
    verdict: str
    reasons: str
    remark: str
    decided: str
