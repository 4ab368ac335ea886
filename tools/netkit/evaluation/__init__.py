"""Evaluate a trained network: face verification, error on ImageNet, embeddings."""
