"""The target ``onnx``: a program as an ONNX model, in one of several flavours of quantized linears."""
