// The page: what is asked for is in the address, so that it can be sent; a picture is not.
import { card, column, element, imageAddress, options } from "./view.js";

const at = (id) => document.getElementById(id);
const PAGE = 30;
let info = null;
let picture = null;
let asked = null;
let columns = [];
let newest = 0;

async function call(path, settings = {}) {
  const answer = await fetch(path, settings);
  if (answer.status === 401) {
    // Until it is read, the connection is not free.
    await answer.text();
    await login();
    return call(path, settings);
  }
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

const post = (path, body) =>
  call(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

function login() {
  const dialog = at("login");
  if (!dialog.open) dialog.showModal();
  return new Promise((done) => {
    at("token-form").onsubmit = async (event) => {
      event.preventDefault();
      const answer = await fetch("v1/session", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ token: at("token").value }),
      });
      await answer.text();
      at("token").value = "";
      at("login-error").textContent = answer.ok ? "" : "That is not the token.";
      if (answer.ok) {
        dialog.close();
        done();
      }
    };
  });
}

function say(text) {
  at("status").textContent = text;
}

// What the address says.
function fromAddress() {
  const query = new URLSearchParams(location.search);
  const whole = (name) => (/^\d+$/.test(query.get(name) ?? "") ? Number(query.get(name)) : null);
  const oneOf = (name, values, otherwise) => (values.includes(query.get(name)) ? query.get(name) : otherwise);
  return {
    text: query.get("q") ?? "",
    row: whole("row"),
    caption: whole("caption"),
    left: oneOf("left", info.heads, info.heads.length > 1 ? info.heads.at(-1) : info.heads[0]),
    right: oneOf("right", [...info.heads, ""], info.heads.length > 1 ? info.heads[0] : ""),
    find: oneOf("find", ["images", "captions"], "images"),
    split: oneOf("split", ["all", ...Object.keys(info.splits)], info.split),
  };
}

function toAddress(state) {
  const query = new URLSearchParams();
  const add = (name, value) => value !== "" && value !== null && query.set(name, value);
  add("q", state.text);
  add("row", state.row);
  add("caption", state.caption);
  for (const name of ["left", "right", "find", "split"]) query.set(name, state[name]);
  return `?${query}`;
}

function fill(state) {
  at("text").value = state.text;
  options(at("left"), info.heads.map((name) => [name, name]), state.left);
  options(at("right"), [["", "nothing"], ...info.heads.map((name) => [name, name])], state.right);
  at("find").value = state.find;
  const splits = info.split === "all" ? [["all", "all splits"], ...Object.keys(info.splits).map((name) => [name, name])] : [[info.split, info.split]];
  options(at("split"), splits, state.split);
  at("random").textContent = info.splits.test || info.split === "test" ? "Random test caption" : "Random caption";
}

function settings() {
  return { left: at("left").value, right: at("right").value, find: at("find").value, split: at("split").value };
}

function go(state) {
  history.pushState(null, "", toAddress(state));
  return search(state);
}

function bodyOf(state, head, offset) {
  const body = { head, find: state.find, split: state.split, k: PAGE, offset };
  if (state.text) body.text = state.text;
  if (state.row !== null) body.row = state.row;
  if (state.caption !== null) body.caption = state.caption;
  if (picture) body.image = picture;
  return body;
}

// Words that a mark can keep as a caption: those that are no sum.
function markText(state) {
  if (picture || state.row !== null || / [+-] |^- |^\d*\.?\d+:(?!\d)/.test(state.text)) return null;
  return state.caption === null ? state.text || null : state.words;
}

async function search(state) {
  fill(state);
  const number = ++newest;
  const empty = !state.text && state.row === null && state.caption === null && !picture;
  at("more").hidden = true;
  if (empty) {
    columns = [];
    at("results").replaceChildren();
    return say("");
  }
  say("Searching …");
  try {
    if (state.caption !== null) {
      const about = await call(`v1/captions/${state.caption}`);
      state.words = about.caption;
      at("text").placeholder = `caption: ${about.caption}`;
    }
    const heads = state.right && state.right !== state.left ? [state.left, state.right] : [state.left];
    const answers = await Promise.all(heads.map((head) => post("v1/search", bodyOf(state, head, 0))));
    if (number !== newest) return undefined;
    asked = state;
    show(answers);
  } catch (error) {
    if (number === newest) {
      at("results").replaceChildren();
      say(`That did not work: ${error.message}.`);
    }
  }
  return undefined;
}

function show(answers) {
  columns = answers.map((answer) => ({ ...column(answer), answer, hits: [] }));
  at("results").className = columns.length > 1 ? "two" : "";
  at("results").replaceChildren(...columns.map((one) => one.made));
  add(answers);
  const words = asked.words ? ` for “${asked.words}”` : asked.text ? ` for “${asked.text}”` : "";
  const hits = answers[0].hits.length;
  say(hits ? `${answers[0].gallery.toLocaleString("en")} ${asked.find} ranked${words}.` : `Nothing found${words}.`);
}

function add(answers) {
  answers.forEach((answer, place) => columns[place].hits.push(...answer.hits));
  const ranks = columns.map((one) => new Map(one.hits.map((hit) => [hit.row, hit.rank])));
  columns.forEach((one, place) => {
    const expected = new Set((one.answer.expected ?? []).map((of) => of.row));
    const drawn = one.hits.map((hit) =>
      card(hit, {
        find: asked.find,
        // The second is compared with the first.
        other: columns.length > 1 && place === 1 ? ranks[0] : null,
        isExpected: expected.has(hit.row),
        markable: markText(asked) !== null,
        actions: { open, mark, caption: (row) => go({ ...settings(), text: "", row: null, caption: row, find: "images" }) },
      }),
    );
    // What was drawn before keeps its focus and its marks.
    const kept = one.list.children.length;
    drawn.forEach((made, at) => {
      if (at >= kept) one.list.append(made);
      else one.list.children[at].querySelector(".numbers").replaceWith(made.querySelector(".numbers"));
    });
  });
  const first = columns[0];
  at("more").hidden = first.hits.length >= first.answer.gallery || first.hits.length >= info.limits.offset;
}

let loading = false;
async function more() {
  if (loading || at("more").hidden || !asked) return;
  loading = true;
  const number = newest;
  try {
    const offset = columns[0].hits.length;
    const answers = await Promise.all(columns.map((one) => post("v1/search", bodyOf(asked, one.answer.head, offset))));
    if (number === newest) add(answers);
  } catch (error) {
    say(`That did not work: ${error.message}.`);
  }
  loading = false;
}

async function mark(row, right) {
  try {
    const counts = await post("v1/marks", { image: row, caption: markText(asked), right });
    say(`${counts.right} marked as right, ${counts.wrong} as wrong.`);
    return true;
  } catch (error) {
    say(`That did not work: ${error.message}.`);
    return false;
  }
}

async function open(row) {
  const about = await call(`v1/images/${row}/about`);
  at("view-image").src = imageAddress(row, 1024);
  at("view-image").alt = about.caption ?? about.file;
  at("view-title").textContent = `${about.file} (${about.split})`;
  at("view-captions").replaceChildren(...about.captions.map((one) => element("li", {}, one.caption)));
  at("like").onclick = () => leave({ row, find: "images" });
  at("captions").onclick = () => leave({ row, find: "captions" });
  at("view").showModal();
}

function leave(state) {
  at("view").close();
  take(null);
  return go({ ...settings(), text: "", caption: null, ...state });
}

async function take(file) {
  picture = null;
  at("picture").hidden = true;
  at("file").value = "";
  if (!file) return;
  if (file.size > info.limits.picture_bytes) return say("That picture is too large.");
  try {
    const bitmap = await createImageBitmap(file);
    at("preview").getContext("2d").drawImage(bitmap, 0, 0, 32, 32);
    bitmap.close();
  } catch {
    return say("That is no picture that can be read.");
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let place = 0; place < bytes.length; place += 32768) text += String.fromCharCode(...bytes.subarray(place, place + 32768));
  picture = btoa(text);
  at("picture").hidden = false;
  return go({ ...settings(), text: at("text").value.trim(), row: null, caption: null });
}

const fileOf = (items) => [...(items?.files ?? [])].find((file) => file.type.startsWith("image/"));

function moveFocus(event) {
  const cards = [...document.querySelectorAll(".hit .picture, .hit button.caption")];
  const place = cards.indexOf(document.activeElement);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (place < 0 || !step) return;
  event.preventDefault();
  cards[Math.min(cards.length - 1, Math.max(0, place + step))].focus();
}

function listen() {
  at("search").addEventListener("submit", (event) => {
    event.preventDefault();
    go({ ...settings(), text: at("text").value.trim(), row: null, caption: null });
  });
  for (const id of ["left", "right", "find", "split"]) {
    at(id).addEventListener("change", () => go({ ...(asked ?? fromAddress()), ...settings() }));
  }
  at("random").addEventListener("click", async () => {
    const split = info.splits.test || info.split === "test" ? "test" : at("split").value;
    const drawn = await call(`v1/captions/random?split=${split}`);
    take(null);
    go({ ...settings(), text: "", row: null, caption: drawn.row, find: "images" });
  });
  at("file").addEventListener("change", () => take(at("file").files[0]));
  at("drop").addEventListener("click", () => {
    take(null);
    at("text").focus();
  });
  at("close").addEventListener("click", () => at("view").close());
  at("more").addEventListener("click", more);
  new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && more(), { rootMargin: "400px" }).observe(at("more"));
  document.addEventListener("paste", (event) => fileOf(event.clipboardData) && take(fileOf(event.clipboardData)));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (fileOf(event.dataTransfer)) take(fileOf(event.dataTransfer));
  });
  document.addEventListener("keydown", (event) => {
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement?.tagName);
    if (event.key === "/" && !typing) {
      event.preventDefault();
      at("text").focus();
    } else if (!typing) moveFocus(event);
  });
  addEventListener("popstate", () => search(fromAddress()));
}

info = await call("v1/info");
at("about").textContent = `${info.dataset}, ${info.model}: ${Object.entries(info.splits).map(([name, count]) => `${count.toLocaleString("en")} ${name}`).join(", ")}`;
listen();
await search(fromAddress());
document.body.dataset.ready = "true";
