"""What is exported: a model that a server can load, and how it is made.

A servable is TensorFlow Serving's word for anything that a server loads. Here
it is a SavedModel that takes the bytes of an image file and returns the
nearest products of the catalog, because it holds the encoder, the catalog and
the index (`saved_model`). Each export is a version: a numbered folder that
appears whole or not at all (`versions`), after it has been compared with what
evaluation measured (`parity`). Nothing here serves; `tf_triplet.serving` does
that on a laptop.
"""
