"""What padding aware neurons are good for, and what they cost: the experiments behind docs/study.md."""
