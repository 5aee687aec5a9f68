"""Plans, which is what TensorRT and TensorRT-RTX call their engines: asked for, built, looked into."""
