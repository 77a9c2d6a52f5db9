"""Runnable examples: data, a timm classifier, and training with ``pan_callbacks`` in an ordinary Trainer."""
