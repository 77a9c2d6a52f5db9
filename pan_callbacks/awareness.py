"""Where pickles of metrics, made by earlier versions, look for their classes."""

from pan_callbacks.measurement.metrics import BorderBias as BorderBias
from pan_callbacks.measurement.metrics import PaddingAwareness as PaddingAwareness
