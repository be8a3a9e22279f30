"""The measurements: a run goes in, figures come out."""
