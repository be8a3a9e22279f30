"""Records of figures go in; the page, its plots and the verdict on the targets come out."""
