"use strict";
// What a card shows: thumbnail, outline of the ground truth, heatmap. A category's pictures are
// read when its first card is made.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("index").textContent);
const stores = [...document.querySelectorAll("script.store")];
const parsed = new Map();
const palette = new Uint32Array(Uint8Array.from(data.palette.flatMap((rgb) => [...rgb, 255])).buffer);

function picturesOf(image) {
  if (!parsed.has(image.category)) {
    parsed.set(image.category, JSON.parse(stores[image.category].textContent));
  }
  return parsed.get(image.category)[image.row];
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function photo(image, alt, className = "") {
  const [height, width] = image.size;
  const source = `data:image/jpeg;base64,${picturesOf(image).thumbnail}`;
  const picture = make("img", { src: source, alt, className });
  picture.style.aspectRatio = `${width} / ${height}`;
  return picture;
}

function outlined(image, alt) {
  if (image.label < 1 || !picturesOf(image).outline) {
    const textContent = ["not labelled", "good", "no mask"][image.label + 1];
    const empty = make("span", { className: "picture nothing", textContent });
    empty.style.aspectRatio = `${image.size[1]} / ${image.size[0]}`;
    return empty;
  }
  const frame = make("span", { className: "picture" }, photo(image, alt));
  const path = picturesOf(image).outline;
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "outline");
  svg.setAttribute("viewBox", "0 0 1000 1000");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const name of ["edge", "core"]) {
    const line = document.createElementNS(space, "path");
    line.setAttribute("class", name);
    line.setAttribute("d", path);
    svg.append(line);
  }
  frame.append(svg);
  return frame;
}

function heatmap(image, place, side, alt) {
  const [height, width] = image.size;
  const ratio = side / Math.max(height, width);
  const canvas = make("canvas", {
    width: Math.max(1, Math.round(width * ratio)),
    height: Math.max(1, Math.round(height * ratio)),
  });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", alt);
  canvas.style.opacity = data.overlay;
  paint(canvas, picturesOf(image).maps[place]);
  return make("span", { className: "picture" }, photo(image, "", "grey"), canvas);
}

// The map stretched bilinearly over the canvas, half a cell in from the border, then coloured.
function paint(canvas, { rows, columns, levels }) {
  const values = Uint8Array.from(atob(levels), (letter) => letter.charCodeAt(0));
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const colours = new Uint32Array(pixels.data.buffer);
  const across = steps(canvas.width, columns);
  let at = 0;
  for (const { before, after, share } of steps(canvas.height, rows)) {
    const line = Float32Array.from({ length: columns }, (_, column) =>
      values[before * columns + column] * (1 - share) + values[after * columns + column] * share);
    for (const { before: left, after: right, share: along } of across) {
      colours[at++] = palette[Math.round(line[left] * (1 - along) + line[right] * along)];
    }
  }
  context.putImageData(pixels, 0, 0);
}

// For each pixel of a side: the cells before and after it, and how far it is between them.
function steps(length, cells) {
  return Array.from({ length }, (_, pixel) => {
    const middle = Math.min(Math.max(((pixel + 0.5) * cells) / length - 0.5, 0), cells - 1);
    const before = Math.floor(middle);
    return { before, after: Math.min(before + 1, cells - 1), share: middle - before };
  });
}
