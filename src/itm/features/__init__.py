"""Make a data folder in the SCAN layout from pictures, or from features in other formats.

`sentences` reads caption files, `partition` makes the splits, `store` writes the folder. `tsv`,
`arrays` and `hdf5` read features that others extracted, and `convert` writes them; `pictures`,
`windows` and `backbones` are what `extraction` makes features with, as `plan` says.
"""
