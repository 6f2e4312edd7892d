"""Head label maps turned into simulated MR and CT pairs."""
