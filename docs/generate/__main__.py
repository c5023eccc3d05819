"""Renews everything in the checkout that is made from the code: `make docs`."""

from docs.generate.pages import HOUSE, MADE

for place, make in MADE.items():
    text = make()
    path = HOUSE / place
    if path.read_text() != text:
        path.write_text(text)
        print(f"renewed {place}")
