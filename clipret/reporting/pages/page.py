"""A page that is one file: no script, no other file, nothing asked of a network."""

from importlib import resources

from clipret.reporting.pages.markup import element, text

# A page that should ask anybody for anything is refused by the browser.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(title: str, said: str, parts: list[tuple[str, str]]) -> str:
    """HTML of a page.

    said   what it is about, below its title
    parts  (heading, HTML) of each
    """
    style = resources.files("clipret.reporting.pages").joinpath("page.css").read_text(encoding="utf-8")
    links = [f'<li><a href="#part-{number}">{text(name)}</a></li>' for number, (name, _) in enumerate(parts)]
    sections = [
        f'<section id="part-{number}" aria-labelledby="head-{number}"><h2 id="head-{number}">{text(name)}</h2>{content}'
        f"</section>"
        for number, (name, content) in enumerate(parts)
    ]
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n"
    )
    nav = f'<nav aria-label="Parts"><ul>{"".join(links)}</ul></nav>'
    top = element("header", element("h1", text(title)), element("p", text(said), kind="soft"), nav)
    return f"{head}<body>\n{top}\n<main>\n{''.join(sections)}\n</main>\n</body>\n</html>\n"
