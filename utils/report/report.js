"use strict";
// The page's one state (number of shots, filters, order) lives in the address after "#", so that
// a view can be shared. Cards are made a few at a time. report_pictures.js stands before this.

const BATCH = 60; // cards added at a time
const SMALL = 144, LARGE = 360; // longer sides of heatmaps in cards and in the large view
const DEFAULTS = { category: "all", defect: "all", outcome: "all", sort: "worst" };

const controls = Object.fromEntries(
  ["shots", "category", "defect", "outcome", "sort"].map((name) => [name, byId(name)]),
);
let run = 0; // the place of the chosen number of shots
let found = []; // the images that pass the filters, in order
let shown = 0; // how many of them have cards
let open = -1; // the place in `found` of the large view

const runOf = (image, place) => data.categories[image.category].runs[place];
const isMistake = (image) => ["missed", "false alarm"].includes(image.outcomes[run]);

// How far the score lies beyond the threshold on the wrong side; negative where it is right.
function wrongness(image) {
  const threshold = runOf(image, run).threshold;
  if (threshold === null) return -Infinity;
  const beyond = image.scores[run] - threshold;
  return image.label === 1 ? -beyond : beyond;
}

const byName = (a, b) => (a.image < b.image ? -1 : a.image > b.image ? 1 : 0);
const difference = (a, b) => (a === b ? 0 : a - b); // two infinities have no difference
const ORDERS = {
  worst: (a, b) => isMistake(b) - isMistake(a) || difference(wrongness(b), wrongness(a)) ||
    (a.label < 0 ? b.scores[run] - a.scores[run] : 0),
  score: (a, b) => b.scores[run] - a.scores[run],
  "score-up": (a, b) => a.scores[run] - b.scores[run],
  name: byName,
};

function passes(image) {
  const { category, defect, outcome } = controls;
  const own = image.outcomes[run];
  return (
    (category.value === "all" || data.categories[image.category].name === category.value.slice(1)) &&
    (defect.value === "all" || image.defect === defect.value.slice(1)) &&
    (outcome.value === "all" || own === outcome.value ||
      (outcome.value === "mistakes" && isMistake(image)))
  );
}

// ---- state ------------------------------------------------------------------------------------

// Names have a mark before them in the values of options: one may be called "all".
function fill(select, names) {
  const kept = select.value;
  select.replaceChildren(new Option("all", "all"), ...names.map((n) => new Option(n, `=${n}`)));
  choose(select, kept, "all");
}

function choose(select, value, otherwise) {
  const known = [...select.options].some((option) => option.value === value);
  select.value = known ? value : otherwise;
}

function fillDefects() {
  const wanted = controls.category.value;
  const images = data.images.filter(
    (image) => wanted === "all" || data.categories[image.category].name === wanted.slice(1),
  );
  fill(controls.defect, [...new Set(images.map((image) => image.defect))].sort());
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (![...given.keys()].some((name) => name in controls || name === "image")) return false;
  choose(controls.shots, given.get("shots"), controls.shots.options[0].value);
  for (const name of ["category", "defect", "outcome", "sort"]) {
    if (name === "defect") fillDefects();
    const marked = name === "category" || name === "defect" ? "=" : "";
    choose(controls[name], marked + given.get(name), DEFAULTS[name]);
  }
  return true;
}

function writeAddress() {
  const kept = new URLSearchParams();
  if (controls.shots.selectedIndex > 0) kept.set("shots", controls.shots.value);
  for (const [name, value] of Object.entries(DEFAULTS)) {
    const chosen = controls[name].value;
    if (chosen !== value) kept.set(name, chosen.replace(/^=/, ""));
  }
  if (byId("large").open) kept.set("image", found[open].image);
  const hash = kept.toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

// ---- cards ------------------------------------------------------------------------------------

const number = (value) => (value === null ? "n/a" : value.toFixed(4));
const labelOf = (image) =>
  ["not labelled", "good", `anomalous (${image.defect})`][image.label + 1];
const outcomeText = (outcome) => (outcome === "n/a" ? "no threshold" : outcome);

function verdict(outcome) {
  const className = `outcome-${outcome.replace(" ", "-").replace("/", "")}`;
  return make("b", { className, textContent: outcomeText(outcome) });
}

function card(image, position) {
  const score = number(image.scores[run]);
  const outcome = image.outcomes[run];
  const alt = `${image.image}: ${labelOf(image)}, score ${score}, ${outcomeText(outcome)}`;
  const pictures = make(
    "span",
    { className: "pictures" },
    make("span", { className: "picture" }, photo(image, alt)),
    outlined(image, "ground truth"),
    heatmap(image, run, SMALL, `heatmap, ${runOf(image, run).name}`),
  );
  const caption = make(
    "span",
    { className: "caption" },
    make("span", { textContent: image.image }),
    make("br"),
    `${labelOf(image)}, score `,
    make("b", { textContent: score }),
    ", ",
    verdict(outcome),
  );
  caption.setAttribute("aria-hidden", "true"); // the first picture's text says the same
  const button = make("button", { type: "button", className: "card" }, pictures, caption);
  button.addEventListener("click", () => enlarge(position));
  const item = make("li", {}, button);
  Object.assign(item.dataset, { image: image.image, outcome, score });
  return item;
}

function showMore() {
  const next = found.slice(shown, shown + BATCH);
  byId("cards").append(...next.map((image, index) => card(image, shown + index)));
  shown += next.length;
  byId("more").hidden = shown === found.length;
  const left = Math.min(BATCH, found.length - shown);
  byId("more").textContent = `Show ${left} more`;
  const all = data.images.length.toLocaleString("en");
  byId("count").textContent = found.length
    ? `${found.length.toLocaleString("en")} of ${all} images match, ${shown.toLocaleString("en")} shown`
    : `None of ${all} images match; reset the filters`;
}

function render() {
  run = controls.shots.selectedIndex;
  for (const part of document.querySelectorAll("[data-shots]")) {
    part.hidden = part.dataset.shots !== controls.shots.value;
  }
  found = data.images.filter(passes).sort((a, b) => ORDERS[controls.sort.value](a, b) || byName(a, b));
  shown = 0;
  byId("cards").replaceChildren();
  showMore();
}

// ---- the large view ---------------------------------------------------------------------------

function titled(picture, ...text) {
  return make("figure", {}, picture, make("figcaption", { className: "caption" }, ...text));
}

function enlarge(position) {
  open = position;
  const image = found[position];
  byId("large-title").textContent = image.image;
  byId("large-facts").replaceChildren(
    `${labelOf(image)}; ${image.size[1]} x ${image.size[0]} pixels; ${position + 1} of ${found.length}. `,
  );
  if (image.panel) {
    const href = image.panel.split("/").map(encodeURIComponent).join("/");
    byId("large-facts").append(make("a", { href, textContent: "The panel in full size" }));
  }
  const maps = image.scores.map((score, place) => {
    const { name, threshold, scale } = runOf(image, place);
    const told = `${name}: score ${number(score)}, threshold ${number(threshold)}, `;
    const range = `; colours from ${number(scale[0])} to ${number(scale[1])}`;
    const picture = heatmap(image, place, LARGE, `heatmap, ${name}`);
    return titled(picture, told, verdict(image.outcomes[place]), range);
  });
  const plain = make("span", { className: "picture" }, photo(image, image.image));
  byId("large-pictures").replaceChildren(
    titled(plain, "image"),
    titled(outlined(image, "ground truth"), "ground truth"),
    ...maps,
  );
  byId("previous").disabled = position === 0;
  byId("next").disabled = position === found.length - 1;
  if (!byId("large").open) byId("large").showModal();
  writeAddress();
}

function enlargeNamed() {
  const name = new URLSearchParams(location.hash.slice(1)).get("image");
  const position = found.findIndex((image) => image.image === name);
  if (position >= 0) enlarge(position);
}

function step(by) {
  if (found[open + by]) enlarge(open + by);
}

// What the address asks for; an address without state, as of a link in the page, changes nothing.
function show() {
  const asked = readAddress();
  if (asked || !found.length) render();
  if (asked) byId("gallery").scrollIntoView();
  if (asked) enlargeNamed();
}

// ---- start ------------------------------------------------------------------------------------

function start() {
  document.documentElement.classList.add("live");
  fill(controls.category, data.categories.map((category) => category.name));
  fillDefects();
  const ramp = { rows: 1, columns: 256, levels: btoa(String.fromCharCode(...Array(256).keys())) };
  paint(byId("ramp"), ramp);
  for (const [name, control] of Object.entries(controls)) {
    control.addEventListener("change", () => {
      if (name === "category") fillDefects();
      writeAddress();
      render();
    });
  }
  byId("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    for (const [name, value] of Object.entries(DEFAULTS)) controls[name].value = value;
    fillDefects();
    writeAddress();
    render();
  });
  byId("more").addEventListener("click", () => {
    const first = shown;
    showMore();
    byId("cards").children[first].firstChild.focus();
  });
  byId("close").addEventListener("click", () => byId("large").close());
  byId("large").addEventListener("close", writeAddress);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("large").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  window.addEventListener("hashchange", show);
  show();
}

start();
