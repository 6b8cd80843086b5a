"""MixedRoPE3D in PyTorch: the specification written a second time, on top of the Qwen2 classes of `transformers`.

    configuration.py   the options of the specification, checked by name, type and value
    operators.py       one operator, one short function
    modeling.py        attention, layer, model and causal LM as subclasses of the library's
    sparse.py          operators on the occupied cells of a grid
    encoders.py        the two point encoders, their configuration and tensors
    answer.py          answers the protocol's requests with the above
    unrepaired.py      what the library itself says where nothing is repaired
"""
