"""Exporting compiled models to ONNX."""
