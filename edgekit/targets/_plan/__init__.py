"""From the canonical graph to what the builders of TensorRT and TensorRT-RTX take.

target.py    the build request: graphs, profiles, options; the trial build
profiles.py  optimization profiles, cut by the sizes that the data has
variants.py  the forms of the graph that versions need: typed by cast.py, lowered by opset.py and expand.py
cures.py     what no version takes and a change of the graph cures
rules.py     what a graph meets, version by version: the table is rulebook.py
"""
