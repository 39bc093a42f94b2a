"""Kinds of images: what there is to draw, one folder each, behind the protocol of ``base``."""
