"""Read ONNX files of any program, and write them."""
