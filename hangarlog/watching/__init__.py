"""What can be seen of a store without opening it for writing: vital signs, metrics, activity, pictures."""
