"""A trained model as a graph for other runtimes: ONNX, OpenVINO, torch.export."""
