"use strict";
// Draw what a card shows: thumbnail, outline of the ground truth, heatmap. The images of a category
// are parsed when its first card is made.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("index").textContent);
const stores = [...document.querySelectorAll("script.store")];
const parsed = new Map(); // index of a category: its thumbnails, outlines and maps by image path
const palette = new Uint32Array(Uint8Array.from(data.palette.flatMap((rgb) => [...rgb, 255])).buffer);

function pixelsOf(image) {
  if (!parsed.has(image.category)) {
    parsed.set(image.category, JSON.parse(stores[image.category].textContent));
  }
  return parsed.get(image.category)[image.image];
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function thumbnail(image, alt, className = "") {
  const [height, width] = image.size;
  const src = `data:image/jpeg;base64,${pixelsOf(image).thumbnail}`;
  const element = make("img", { src, alt, className });
  element.style.aspectRatio = `${width} / ${height}`;
  return element;
}

// Without maps, no masks are needed: where none is given, the label is all there is.
function hasGroundTruth(image) {
  pixelsOf(image);
  const pixels = Object.values(parsed.get(image.category));
  return image.label >= 0 && pixels.some(({ outline, maps }) => outline || maps.length);
}

function groundTruth(image, alt) {
  const { outline } = pixelsOf(image);
  if (image.label < 1 || !outline) {
    const textContent = image.label === 0 ? "good" : "no mask";
    const empty = make("span", { className: "frame nothing", textContent });
    empty.style.aspectRatio = `${image.size[1]} / ${image.size[0]}`;
    return empty;
  }
  return outlined(image, alt, outline, "outline");
}

// Return the thumbnail with an SVG path drawn over it; both axes of the path go from 0 to 1000.
function outlined(image, alt, d, className) {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("class", className);
  svg.setAttribute("viewBox", "0 0 1000 1000");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const name of ["edge", "core"]) {
    const path = document.createElementNS(namespace, "path");
    path.setAttribute("class", name);
    path.setAttribute("d", d);
    svg.append(path);
  }
  return make("span", { className: "frame" }, thumbnail(image, alt), svg);
}

function heatmap(image, runIndex, side, alt) {
  const [height, width] = image.size;
  const ratio = side / Math.max(height, width);
  const canvas = make("canvas", {
    width: Math.max(1, Math.round(width * ratio)),
    height: Math.max(1, Math.round(height * ratio)),
  });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", alt);
  canvas.style.opacity = data.overlay;
  paint(canvas, pixelsOf(image).maps[runIndex]);
  return make("span", { className: "frame" }, thumbnail(image, "", "grey"), canvas);
}

// Stretch the map over the canvas bilinearly, with cell centres half a cell from the border, then
// colour it.
function paint(canvas, { rows, columns, levels }) {
  const values = Uint8Array.from(atob(levels), (letter) => letter.charCodeAt(0));
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  const colours = new Uint32Array(pixels.data.buffer);
  const xWeights = weights(canvas.width, columns);
  let pixel = 0;
  for (const { before: top, after: bottom, share: down } of weights(canvas.height, rows)) {
    const line = Float32Array.from({ length: columns }, (_, column) =>
      values[top * columns + column] * (1 - down) + values[bottom * columns + column] * down);
    for (const { before: left, after: right, share } of xWeights) {
      colours[pixel++] = palette[Math.round(line[left] * (1 - share) + line[right] * share)];
    }
  }
  context.putImageData(pixels, 0, 0);
}

// Return, for each pixel along a side, the cells before and after it and its position between them.
function weights(length, cells) {
  return Array.from({ length }, (_, pixel) => {
    const centre = Math.min(Math.max(((pixel + 0.5) * cells) / length - 0.5, 0), cells - 1);
    const before = Math.floor(centre);
    return { before, after: Math.min(before + 1, cells - 1), share: centre - before };
  });
}
