"""What turns work items into results: one runner for each kind of work. torch stops here and in `engine.py`."""
