# Kinds of things: training, validation and test show different objects.
dataset = dict(type="Glyphs", classes="subgroups", style="flat")
