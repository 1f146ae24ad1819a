"""What more than one stage needs: storage, images, random draws, registries, errors, tables. No torch, ray or onnx."""
