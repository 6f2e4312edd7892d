"""What voxel values mean to a PET scanner: HU to attenuation at 511 keV."""
