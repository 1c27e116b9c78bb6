"""Read captions from the JSON objects of Karpathy's splits and of COCO."""

from collections import Counter
from typing import Any

from itm.features.collected import Sentences

FORMS = (
    "Karpathy's {'images': [{'filename', 'sentences': [{'raw'}]}]}, COCO's {'images', "
    "'annotations'}, or a list of {'file_name', 'caption'}"
)


def read_object(content: Any) -> Sentences:
    """Read the captions of Karpathy's or COCO's object.

    Raises:
        ValueError: it is another object, or contradicts itself.
    """
    if isinstance(content, dict) and "images" not in content:
        keys = ", ".join(map(repr, list(content)[:3]))
        raise ValueError(
            f"expected {FORMS}; found an object with {f'the keys {keys}' if keys else 'no key'}"
        )
    try:
        return _coco(content) if "annotations" in content else _karpathy(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected {FORMS} (found {error!r})") from error


def _check_string(value: Any, where: str, key: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key} is {value!r}, expected a string; correct it or remove it")


def _karpathy(content: Any) -> Sentences:
    found = Sentences()
    folders: dict[str, Any] = {}
    for at, image in enumerate(content["images"]):
        _check_string(image["filename"], f"images[{at}]", "filename")
        if image["filename"] in folders:
            raise ValueError(
                f"two images are called {image['filename']!r} (filepath "
                f"{folders[image['filename']]!r} and {image.get('filepath')!r}), so that their "
                "captions would be mixed; write the folder into their filename"
            )
        folders[image["filename"]] = image.get("filepath")
        name = _placed(image["filename"], image.get("filepath"))
        if not image["sentences"]:
            found.bare.append(name)
        for sentence in image["sentences"]:
            if not isinstance(sentence, dict) or not isinstance(sentence.get("raw"), str):
                raise ValueError(
                    f"{image['filename']}: expected sentences [{{'raw': 'a caption'}}], found "
                    f"{str(sentence)[:80]!r}"
                )
            found.add(name, sentence["raw"], image.get("split", ""))
    return found


def _placed(name: str, folder: Any) -> str:
    """Write the folder before the name of a file, unless the name repeats it as COCO's do."""
    if not isinstance(folder, str) or not (folder := folder.strip().rstrip("/")):
        return name
    if name.startswith(f"{folder}/") or folder.split("/")[-1] in name.split("_")[:-1]:
        return name
    return f"{folder}/{name}"


def _coco(content: Any) -> Sentences:
    found = Sentences()
    names: dict[Any, str] = {}
    for at, image in enumerate(content["images"]):
        _check_string(image["file_name"], f"images[{at}], id {image['id']}", "file_name")
        if names.setdefault(image["id"], image["file_name"]) != image["file_name"]:
            raise ValueError(f"two images have the id {image['id']}")
    files = Counter(names.values())
    if twice := [name for name, n in files.items() if n > 1]:
        raise ValueError(
            f"two ids have the file_name {twice[0]!r}, so that their captions would be mixed; "
            "write the folder into file_name, or keep one of them"
        )
    ids = Counter(annotation.get("id") for annotation in content["annotations"])
    if twice := [number for number, n in ids.items() if n > 1 and number is not None]:
        raise ValueError(f"two annotations have the id {twice[0]}")
    for annotation in content["annotations"]:
        if annotation["image_id"] not in names:
            raise ValueError(f"a caption names image {annotation['image_id']}, which is not listed")
        name = names[annotation["image_id"]]
        if "caption" not in annotation:
            raise ValueError(
                f"an annotation of {name} has no caption: expected COCO's captions_....json, not "
                "its instances or keypoints"
            )
        _check_string(annotation["caption"], f"an annotation of {name}", "caption")
        found.add(name, annotation["caption"])
    found.bare = [name for name in names.values() if name not in found.captions]
    return found
