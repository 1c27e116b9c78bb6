"""Make a data folder in the SCAN layout from pictures, or from features in other formats.

`sentences` reads caption files, with `tables` for tables; `partition` makes the splits; `store`
writes the arrays. Existing features: `tsv`, `arrays` and `hdf5` read them, `records` checks each
image, `convert` writes the folder, `derived` adds vocabularies and the like. Pictures: `plan`
assigns them to splits, and `extraction` computes features with `pictures`, `windows` and
`backbones`.
"""
