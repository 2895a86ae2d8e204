# Single objects by name. A style has one drawing of each, so test images are other renderings of it.
dataset = dict(type="Glyphs", classes="concepts", style="flat")
