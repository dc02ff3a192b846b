// What is drawn of answers. All text goes in as text, never as markup.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

export function imageAddress(row, size) {
  return `v1/images/${row}?size=${size}`;
}

function picture(hit, actions) {
  const image = element("img", {
    src: imageAddress(hit.row, 256),
    alt: hit.caption ?? hit.file,
    loading: hit.rank > 12 ? "lazy" : "eager",
    width: 256,
    height: 256,
  });
  image.addEventListener("error", () => image.replaceWith(element("span", { className: "caption" }, `no picture: ${hit.file}`)));
  const button = element("button", { type: "button", className: "picture" }, image);
  button.setAttribute("aria-label", `${hit.caption ?? hit.file}, rank ${hit.rank}: open`);
  button.addEventListener("click", () => actions.open(hit.row));
  return button;
}

function movement(hit, other) {
  if (!other) return null;
  const before = other.get(hit.row);
  if (before === hit.rank) return element("span", { className: "score" }, "same rank");
  if (before === undefined) return element("span", { className: "up" }, `new in the first ${other.size}`);
  const up = before > hit.rank;
  return element(
    "span",
    { className: up ? "up" : "down" },
    element("span", { "aria-hidden": "true" }, up ? "▲ " : "▼ "),
    `${up ? "up" : "down"} from ${before}`,
  );
}

function marks(hit, actions) {
  const buttons = [["Right", true], ["Wrong", false]].map(([word, right]) => {
    const button = element("button", { type: "button" }, word);
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-label", `${word}: ${hit.caption ?? hit.file}`);
    button.addEventListener("click", async () => {
      const pressed = button.getAttribute("aria-pressed") === "true";
      if (await actions.mark(hit.row, pressed ? null : right)) {
        for (const one of buttons) one.setAttribute("aria-pressed", String(one === button && !pressed));
      }
    });
    return button;
  });
  return element("div", { className: "marks", role: "group", "aria-label": "Is it right?" }, ...buttons);
}

function numbers(hit, { other, isExpected }) {
  const line = element(
    "p",
    { className: "numbers" },
    element("span", { className: "rank" }, element("span", { className: "hidden" }, "rank "), String(hit.rank)),
    element("span", { className: "score" }, element("span", { className: "hidden" }, "cosine "), hit.score.toFixed(3)),
  );
  const moved = movement(hit, other);
  if (moved) line.append(moved);
  if (isExpected) line.append(element("span", { className: "badge" }, "expected"));
  return line;
}

export function card(hit, settings) {
  const { find, actions } = settings;
  const made = element("li", { className: settings.isExpected ? "hit expected" : "hit" });
  made.dataset.row = hit.row;
  if (find === "images") {
    made.append(picture(hit, actions), numbers(hit, settings));
    made.append(element("p", { className: "caption" }, hit.caption ?? hit.file));
    if (settings.markable) made.append(marks(hit, actions));
  } else {
    const button = element("button", { type: "button", className: "caption" }, hit.caption);
    button.addEventListener("click", () => actions.caption(hit.row));
    made.append(button, numbers(hit, settings));
  }
  return made;
}

export function column(answer) {
  const ranks = (answer.expected ?? []).map((one) => one.rank);
  const best = ranks.length ? ` · expected at rank ${Math.min(...ranks).toLocaleString("en")}` : "";
  const list = element("ol", { className: answer.find === "images" ? "hits" : "hits captions" });
  const of = `${answer.gallery.toLocaleString("en")} ${answer.find}${best}`;
  const made = element(
    "section",
    { className: "head", "aria-label": `Results of ${answer.head}` },
    element("header", {}, element("h2", {}, answer.head), element("p", { className: "count" }, of)),
    list,
  );
  return { made, list };
}

export function options(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => element("option", { value, selected: value === chosen }, text)));
}
