"""Rigid, affine and deformable registration, and how far its result can be trusted."""
