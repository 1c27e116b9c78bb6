"""Make a data folder in the SCAN layout from pictures, or from features in other formats.

`sentences` reads caption files, `partition` makes the splits, `store` writes the folder. `tsv`,
`arrays` and `hdf5` read features that others extracted, and `convert` writes them. `plan` assigns
pictures to splits, and `extraction` computes their features with `pictures`, `windows` and
`backbones`. `tables` understands tables of captions, `records` checks the features of an image.
"""
