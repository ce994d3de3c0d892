"""How masks are made and improved: models, generator, training, evaluation; the annotation app."""
