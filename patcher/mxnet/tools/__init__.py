"""`mxnet.tools`, of which im2rec is here."""
