"""The lowering targets, one a file."""

if __name__ != "starquant_fx.lowering":
    raise ImportError(
        f"{__name__!r} is not a package of its own: import it as 'starquant_fx.lowering'",
        name=__name__,
    )
