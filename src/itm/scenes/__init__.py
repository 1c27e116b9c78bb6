"""The embedded corpus: a small generated world, its captions, its regions and its pictures.

It downloads nothing and is made in seconds, yet it is a retrieval task in earnest: captions are
partial and overlap in meaning, images come with near twins, region vectors are noisy.
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
