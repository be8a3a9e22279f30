"""The base of every measurement: a task goes to a child process, an engine runs it, figures come back."""
