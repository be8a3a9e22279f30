"""The measurements: a run of an engine goes in, figures come out."""
