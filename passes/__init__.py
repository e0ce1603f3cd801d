"""The rewriting passes, one a file."""

if __name__ != "starquant_fx.passes":
    raise ImportError(
        f"{__name__!r} is not a package of its own: import it as 'starquant_fx.passes'",
        name=__name__,
    )
