"""A local server that answers as TensorFlow Serving 2.15 does.

It serves exported models on a laptop and in tests, where TensorFlow Serving
itself is not at hand. It loads the same model folders, reads the same
configuration files and gives the same gRPC and REST answers. Production runs
TensorFlow Serving; nothing in this package is part of an export (see
`tf_triplet.servable` for what is).
"""
