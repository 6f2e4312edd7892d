"""The order of the steps: run, evaluate, and the job folder they work in."""
