"""Trains a timm model from a YAML file with LightningCLI, then prints the padding aware neurons that were found.

python -m examples.train fit -c configs/monitor.yaml
python -m examples.train fit -c configs/image_folder.yaml --data.folder ~/photos --model.model_name efficientnet_b0
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path

if not __package__:  # run as a file: "python examples/train.py"
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pytorch_lightning import LightningDataModule
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

from examples.findings import print_findings
from examples.model import TimmClassifier

warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the digits are in memory
warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of a torch name that will go
# no advertisements of other products
logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.getMessage())


class TrainCLI(LightningCLI):
    """A CLI whose model gets the number of classes and channels from its data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Links the model to its data."""
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.channels", "model.in_chans", apply_on="instantiate")


def main(args: ArgsType = None) -> TrainCLI:
    """Runs one subcommand of the Trainer.

    Args:
        args: Arguments as on the command line, by default those of this process.

    Returns:
        The CLI, with its ``trainer``, ``model`` and ``datamodule``.
    """
    begun = time.monotonic()
    cli = TrainCLI(TimmClassifier, LightningDataModule, subclass_mode_data=True, seed_everything_default=0, args=args)
    print_findings(cli.trainer)
    if cli.trainer.is_global_zero:
        minutes, seconds = divmod(round(time.monotonic() - begun), 60)
        print(f"\nThis took {minutes} min {seconds} s, installing not counted.")
    return cli


if __name__ == "__main__":
    main()
