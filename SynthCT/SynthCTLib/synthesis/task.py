"""The tasks: which image is made from which."""

from __future__ import annotations

from enum import StrEnum

from SynthCTLib.volume import DEFAULT_UNIT, Role, Unit


class Task(StrEnum):
    """A synthesis, named by what goes in and what comes out."""

    MR_TO_CT = "mr-to-ct"
    NAC_PET_TO_CT = "nac-pet-to-ct"
    CT_TO_PET = "ct-to-pet"
    MR_TO_PET = "mr-to-pet"

    @property
    def input_role(self) -> Role:
        """The role of the image that goes in."""
        return _ROLES[self][0]

    @property
    def output_role(self) -> Role:
        """The role of the image that comes out."""
        return _ROLES[self][1]

    @property
    def output_unit(self) -> Unit:
        """The unit of the image that comes out: HU or SUV."""
        return DEFAULT_UNIT[self.output_role]


_ROLES = {
    Task.MR_TO_CT: (Role.MR, Role.CT),
    Task.NAC_PET_TO_CT: (Role.NAC_PET, Role.CT),
    Task.CT_TO_PET: (Role.CT, Role.PET),
    Task.MR_TO_PET: (Role.MR, Role.PET),
}
