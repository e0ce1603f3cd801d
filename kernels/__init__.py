"""The operators' kernels: the reference implementation and the fast ones."""

if __name__ != "starquant_fx.kernels":
    raise ImportError(
        f"{__name__!r} is not a package of its own: import it as 'starquant_fx.kernels'",
        name=__name__,
    )
