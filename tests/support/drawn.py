"""What tests ask of any figure."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.figure import Figure


def texts(figure: Figure) -> str:
    figure.canvas.draw()
    return "\n".join(artist.get_text() for artist in figure.findobj(matplotlib.text.Text) if artist.get_visible())


def draws_without_warning(figure: Figure) -> bool:
    with io.BytesIO() as png:
        figure.savefig(png, format="png")
        return png.tell() > 1000
