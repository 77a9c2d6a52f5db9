"""Watch, measure and suppress padding aware neurons in PyTorch Lightning."""
