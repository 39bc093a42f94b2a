"""FractalDB (Kataoka et al., ACCV 2020): categories, drawing rules and instances, as compiled kernels.

Depends on numpy and numba alone.  ``ifs`` holds the values, ``search`` finds categories,
``chaos`` has the kernels, ``instances`` names and orders the pictures of a category, and
``render`` draws them.
"""
