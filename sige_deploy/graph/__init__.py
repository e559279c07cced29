"""The graph pass: a dense ONNX graph in, the record and edit graphs out. One rule per file in `rules`."""
