"""Tasks: what is trained for."""
