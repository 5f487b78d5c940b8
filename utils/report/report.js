"use strict";
// Filter, sort and enlarge the images of the gallery. The state of the page (number of shots, filters,
// order) is in the address after "#", so that a view can be shared. Cards are made a few at a time.
// Needs report_images.js.

const BATCH = 60; // cards added at a time
const SMALL = 144, LARGE = 360; // longer side of heatmaps in cards and in the large view, in pixels

const controls = Object.fromEntries(
  ["shots", "category", "defect", "outcome", "sort"].map((name) => [name, byId(name)]),
);
const DEFAULT_SHOTS = controls.shots.querySelector("[selected]").value;
const DEFAULTS = {
  category: "all", defect: "all", outcome: "all", sort: controls.sort.options[0].value,
};
let selectedRun = 0; // index of the selected number of shots
let matches = []; // the images that pass the filters, in order
let shown = 0; // number of matches that have a card
let enlarged = -1; // index in `matches` of the image in the large view

const categoryOf = (image) => data.categories[image.category];
const runOf = (image, index) => categoryOf(image).runs[index];
const scoreOf = (image) => image.scores[selectedRun];
const isMistake = (image) => ["missed", "false alarm"].includes(image.outcomes[selectedRun]);

// Return how far the score is on the wrong side of the threshold; negative on the right side.
function error(image) {
  const { threshold } = runOf(image, selectedRun);
  if (threshold === null) return -Infinity;
  return image.label === 1 ? threshold - scoreOf(image) : scoreOf(image) - threshold;
}

const byName = (a, b) => (a.image < b.image ? -1 : a.image > b.image ? 1 : 0);
const difference = (a, b) => (a === b ? 0 : a - b); // two infinities have no difference
const ORDERS = {
  worst: (a, b) => isMistake(b) - isMistake(a) || difference(error(b), error(a)),
  score: (a, b) => scoreOf(b) - scoreOf(a),
  "score-up": (a, b) => scoreOf(a) - scoreOf(b),
  name: byName,
};

function isInCategory(image) {
  const { value } = controls.category;
  return value === "all" || categoryOf(image).name === value.slice(1);
}

function passes(image) {
  const { defect, outcome } = controls;
  const imageOutcome = image.outcomes[selectedRun];
  return (
    isInCategory(image) &&
    (defect.value === "all" || image.defect === defect.value.slice(1)) &&
    (outcome.value === "all" || imageOutcome === outcome.value ||
      (outcome.value === "mistakes" && isMistake(image)) ||
      outcome.value === { true: "above", false: "not above" }[image.above[selectedRun]])
  );
}

// ---- state ------------------------------------------------------------------------------------

// The values of options are names after a "=", since a category or a defect may be called "all".
function fill(select, names) {
  const previous = select.value;
  select.replaceChildren(
    new Option("all", "all"), ...names.map((name) => new Option(name, `=${name}`)),
  );
  choose(select, previous, "all");
}

function choose(select, value, fallback) {
  const known = [...select.options].some((option) => option.value === value);
  select.value = known ? value : fallback;
}

function fillDefects() {
  const images = data.images.filter(isInCategory);
  fill(controls.defect, [...new Set(images.map((image) => image.defect))].sort());
}

function readAddress() {
  const state = new URLSearchParams(location.hash.slice(1));
  if (![...state.keys()].some((name) => name in controls || name === "image")) return false;
  choose(controls.shots, state.get("shots"), DEFAULT_SHOTS);
  for (const name of ["category", "defect", "outcome", "sort"]) {
    if (name === "defect") fillDefects();
    const prefix = name === "category" || name === "defect" ? "=" : "";
    choose(controls[name], prefix + state.get(name), DEFAULTS[name]);
  }
  return true;
}

function writeAddress() {
  const state = new URLSearchParams();
  if (controls.shots.value !== DEFAULT_SHOTS) state.set("shots", controls.shots.value);
  for (const [name, value] of Object.entries(DEFAULTS)) {
    const chosen = controls[name].value;
    if (chosen !== value) state.set(name, chosen.replace(/^=/, ""));
  }
  if (byId("large").open) state.set("image", matches[enlarged].image);
  const hash = state.toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

// ---- cards ------------------------------------------------------------------------------------

const format = (value) => (value === null ? "n/a" : value.toFixed(4));
const isLabelled = (image) => image.label >= 0;
const labelText = (image) => ["unlabelled", "good", `anomalous (${image.defect})`][image.label + 1];
const outcomeText = (outcome) => (outcome === "n/a" ? "no outcome" : outcome);

// Return the verdict by the threshold from the references, if any, and the outcome, if labelled.
function verdicts(image, run) {
  const outcome = image.outcomes[run];
  const marks = [];
  if (image.above[run] !== null) {
    marks.push(image.above[run]
      ? { className: "above", textContent: "above the threshold" }
      : { textContent: "not above the threshold" });
  }
  if (isLabelled(image)) {
    const className = `outcome-${outcome.replace(" ", "-").replace("/", "")}`;
    marks.push({ className, textContent: outcomeText(outcome) });
  }
  return marks;
}

const marked = (image, run) =>
  verdicts(image, run).flatMap((properties) => [", ", make("b", properties)]);

function card(image, index) {
  const score = format(scoreOf(image));
  const outcome = image.outcomes[selectedRun];
  const ending = verdicts(image, selectedRun).map((mark) => `, ${mark.textContent}`).join("");
  const alt = `${image.image}: ${labelText(image)}, score ${score}${ending}`;
  const frames = make(
    "span",
    { className: "frames" },
    make("span", { className: "frame" }, thumbnail(image, alt)),
    ...(hasGroundTruth(image) ? [groundTruth(image, "ground truth")] : []),
    ...heatmaps(image, selectedRun, SMALL),
  );
  const caption = make(
    "span",
    { className: "caption" },
    make("span", { textContent: image.image }),
    make("br"),
    `${labelText(image)}, score `,
    make("b", { textContent: score }),
    ...marked(image, selectedRun),
  );
  caption.setAttribute("aria-hidden", "true"); // the alt text of the thumbnail says the same
  const button = make("button", { type: "button", className: "card" }, frames, caption);
  button.addEventListener("click", () => enlarge(index));
  const item = make("li", {}, button);
  Object.assign(item.dataset, { image: image.image, outcome, score });
  return item;
}

function showMore() {
  const next = matches.slice(shown, shown + BATCH);
  byId("cards").append(...next.map((image, index) => card(image, shown + index)));
  shown += next.length;
  byId("more").hidden = shown === matches.length;
  byId("more").textContent = `Show ${Math.min(BATCH, matches.length - shown)} more`;
  const [count, total, cards] = [matches.length, data.images.length, shown].map(
    (number) => number.toLocaleString("en"),
  );
  byId("count").textContent = matches.length
    ? `${count} of ${total} images match, ${cards} shown`
    : `None of the ${total} images match; reset the filters`;
}

function render() {
  selectedRun = controls.shots.selectedIndex;
  for (const element of document.querySelectorAll("[data-shots]")) {
    element.hidden = element.dataset.shots !== controls.shots.value;
  }
  matches = data.images.filter(passes).sort((a, b) => ORDERS[controls.sort.value](a, b) || byName(a, b));
  shown = 0;
  byId("cards").replaceChildren();
  showMore();
}

// ---- the large view ---------------------------------------------------------------------------

function figure(frames, ...text) {
  return make("figure", {}, ...frames, make("figcaption", { className: "caption" }, ...text));
}

// Return the heatmap of a run as the only entry of a list, which is empty without maps.
function heatmaps(image, run, side) {
  const { name, scale } = runOf(image, run);
  return scale ? [heatmap(image, run, side, `heatmap, ${name}`)] : [];
}

// Return a figure of the image with the borders of its defects, if it is above the threshold.
function detected(image) {
  const { defects } = pixelsOf(image);
  if (!defects) return [];
  const frame = outlined(image, "detected defects", defects.path, "outline detected");
  return [figure([frame], defects.caption)];
}

function enlarge(index) {
  enlarged = index;
  const image = matches[index];
  const [height, width] = image.size;
  byId("large-title").textContent = image.image;
  byId("large-facts").replaceChildren(
    `${labelText(image)}; ${width} x ${height} pixels; ${index + 1} of ${matches.length}. `,
  );
  if (image.panel) {
    const href = image.panel.split("/").map(encodeURIComponent).join("/");
    byId("large-facts").append(make("a", { href, textContent: "Open the heatmap panel" }));
  }
  const maps = image.scores.map((score, run) => {
    const { name, threshold, scale } = runOf(image, run);
    const outcome = isLabelled(image) || threshold !== null
      ? [`, threshold ${format(threshold)}`, ...marked(image, run)] : [];
    const range = scale ? [`; colours from ${format(scale[0])} to ${format(scale[1])}`] : [];
    const frames = heatmaps(image, run, LARGE);
    return figure(frames, `${name}: score ${format(score)}`, ...outcome, ...range);
  });
  const truth = hasGroundTruth(image)
    ? [figure([groundTruth(image, "ground truth")], "ground truth")] : [];
  byId("large-images").replaceChildren(
    figure([make("span", { className: "frame" }, thumbnail(image, image.image))], "image"),
    ...truth,
    ...detected(image),
    ...maps,
  );
  byId("previous").disabled = index === 0;
  byId("next").disabled = index === matches.length - 1;
  if (!byId("large").open) byId("large").showModal();
  writeAddress();
}

function enlargeNamed() {
  const name = new URLSearchParams(location.hash.slice(1)).get("image");
  const index = matches.findIndex((image) => image.image === name);
  if (index >= 0) enlarge(index);
}

function step(by) {
  if (matches[enlarged + by]) enlarge(enlarged + by);
}

// Show the state in the address; one without state, such as a link within the page, changes nothing.
function show() {
  const hasState = readAddress();
  if (hasState || !matches.length) render();
  if (hasState) byId("gallery").scrollIntoView();
  if (hasState) enlargeNamed();
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
