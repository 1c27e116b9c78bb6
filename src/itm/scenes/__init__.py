"""The built-in corpus: a small generated world with captions, regions and pictures.

It is generated in seconds without downloads, yet it is a real retrieval task: captions are partial
and overlap in meaning, images have near duplicates, and region vectors are noisy.
"""

from itm.scenes.corpus import cache_root, load_phrases, load_scenes, scenes_folder, write_scenes
from itm.scenes.picture import render
from itm.scenes.world import Scene, Thing

__all__ = [
    "Scene",
    "Thing",
    "cache_root",
    "load_phrases",
    "load_scenes",
    "render",
    "scenes_folder",
    "write_scenes",
]
