"""Where code of earlier versions imports the metrics from."""

from pan_callbacks.measurement.metrics import BorderBias as BorderBias
from pan_callbacks.measurement.metrics import PaddingAwareness as PaddingAwareness
