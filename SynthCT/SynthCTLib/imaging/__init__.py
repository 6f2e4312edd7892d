"""Images in and out, the input gate, grids, masks, bias field and table removal."""
