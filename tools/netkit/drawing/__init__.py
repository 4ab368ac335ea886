"""Figures: networks, units, masks and feature maps, charts."""
