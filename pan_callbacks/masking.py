"""Where pickles of permanently masked models, made by earlier versions, look for their masks."""

from pan_callbacks.suppression.masks import ChannelMask as ChannelMask
from pan_callbacks.suppression.masks import MaskHook as MaskHook
