"""Makes layers of Keras known that Keras 2.15 itself cannot load.

`keras.applications.ConvNeXtTiny` has layers that are not registered, so that
a saved model fails to load with `'str' object is not callable`. After

    import tf_triplet.models.keras_layers

`tf.keras.models.load_model` loads it. Without this package, pass
`custom_objects={"LayerScale": keras.src.applications.convnext.LayerScale}`.
"""

from __future__ import annotations

import tensorflow as tf
from keras.src.applications import convnext

for _layer in (convnext.LayerScale, convnext.StochasticDepth):
    tf.keras.saving.get_custom_objects().setdefault(_layer.__name__, _layer)
