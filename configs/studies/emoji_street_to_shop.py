"""Street to shop on the emoji: the drawings of one vendor query another's.

Command:  tf-triplet-compare --study=configs/studies/emoji_street_to_shop.py \\
              --output=runs/street_to_shop
Needs:    Two CPU cores and a quarter of an hour for three seeds. The images and
          the weights of ResNet50 are fetched from package registries once.
Result:   docs/ablation.md
Smoke:    --methods=pretrained,cross_domain --seeds=0

Google's drawings take the part of street photos. OpenMoji's, which have a
black outline, take the part of shop images.
"""

import pathlib
import runpy

from tf_triplet.workflows import Method

_ABLATION = pathlib.Path(__file__).with_name("emoji_ablation.py")
STREET, SHOP = "google", "openmoji"


def recipe(**changes):
    """Returns the recipe of the ablation, for the domains of two vendors."""
    return runpy.run_path(str(_ABLATION))["recipe"](
        sampling__query_domain=STREET,
        sampling__gallery_domain=SHOP,
        evaluation__protocol="query_gallery",
        evaluation__query_domain=STREET,
        evaluation__gallery_domain=SHOP,
        **changes,
    )


def get_study():
    """Returns the methods: pretrained, two vendors pooled, and pairs across."""
    return {
        "pretrained": Method(recipe(), trained=False),
        "in_domain": Method(recipe(sampling__pool_domains=True)),
        "cross_domain": Method(recipe()),
        "cross_domain_random": Method(recipe(loss__mining="random")),
        "cross_domain_all_categories": Method(
            recipe(sampling__single_category_probability=0.0)
        ),
    }
