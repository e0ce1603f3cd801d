"""Looking into a compilation: the graph after every pass, what each pass changed, what each site costs and loses."""
