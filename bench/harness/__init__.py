"""What every measurement stands on: a task goes into a process of its own, an engine does it, figures come out."""
