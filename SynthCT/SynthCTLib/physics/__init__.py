"""What voxel values mean to a PET scanner: µ at 511 keV, SUV, lines of response, simulated PET."""
