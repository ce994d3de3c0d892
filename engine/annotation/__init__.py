"""The people's side: the annotation page, its server and its rules."""
