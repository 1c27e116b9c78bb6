"""From pictures, or features in other formats, to a folder in the SCAN layout.

`sentences` reads caption files, `partition` makes the splits, `store` writes the folder; `tsv`,
`arrays` and `hdf5` read features of others, `windows`, `backbones` and `pictures` make them.
"""
