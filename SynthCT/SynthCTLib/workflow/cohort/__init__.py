"""Many subjects: a manifest, jobs in parallel that can be resumed, and their tables."""
