"""Every family of timm: its smallest member that runs, and the size at which it is run."""

FAMILIES: dict[str, tuple[str, int]] = {}
