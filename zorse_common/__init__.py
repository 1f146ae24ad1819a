"""Code that more than one stage uses: storage, images, random draws, registries, errors, tables.

It imports neither torch nor ray nor onnx.
"""
