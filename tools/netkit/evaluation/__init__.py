"""How well a trained network does: verification of faces, error on ImageNet, embeddings."""
