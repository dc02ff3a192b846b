"""What a page shows, read out of its HTML."""

from html.parser import HTMLParser


class Tables(HTMLParser):
    """The texts of all tables, row by row, and every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self._cell = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_data(self, data):
        if self._cell is not None:
            self._cell.append(data)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append("".join(self._cell).strip())
            self._cell = None

    def row(self, label, *, number=0):
        return [row for row in self.rows if row and row[0] == label][number]
