"""Street to shop on the emoji: one vendor's drawings ask another's.

Command:  tf-triplet-compare --study=configs/studies/emoji_street_to_shop.py \\
              --output=runs/street_to_shop
Needs:    two CPU cores and a quarter of an hour for three seeds; the images
          and the ResNet50 come from the package registries when first used.
Result:   docs/ablation.md
Smoke:    --methods=pretrained,cross_domain --seeds=0

Google's drawings are the street, OpenMoji's, outlined in black, the shop.
"""

import pathlib
import runpy

from tf_triplet.workflows import Method

_ABLATION = pathlib.Path(__file__).with_name("emoji_ablation.py")
STREET, SHOP = "google", "openmoji"


def recipe(**changes):
    """The recipe of the ablation; two vendors, and the street asks."""
    return runpy.run_path(str(_ABLATION))["recipe"](
        sampling__query_domain=STREET,
        sampling__gallery_domain=SHOP,
        evaluation__protocol="query_gallery",
        evaluation__query_domain=STREET,
        evaluation__gallery_domain=SHOP,
        **changes,
    )


def get_study():
    """Pretrained features, the two vendors pooled, and pairs across them."""
    return {
        "pretrained": Method(recipe(), trained=False),
        "in_domain": Method(recipe(sampling__pool_domains=True)),
        "cross_domain": Method(recipe()),
        "cross_domain_random": Method(recipe(loss__mining="random")),
        "cross_domain_all_categories": Method(
            recipe(sampling__single_category_probability=0.0)
        ),
    }
