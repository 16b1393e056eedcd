/* Included by explore.html.jinja: shows what is chosen, from the JSON in the page. */
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const chosen = { layer: 0, channel: 0, image: 0 };
const at = id => document.getElementById(id);
const box = document.querySelector(".box"); // of the diagram

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function picture(index, alt, side = 0) {
  const made = element("img", { src: data.pictures[index], alt, className: "pixels" });
  // Pixels are visible where a small image is enlarged; a photograph is smoothed.
  made.onload = () => made.classList.toggle("pixels", made.naturalWidth <= (side || 48));
  return made;
}

function format(value) {
  return Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/* Return "7 × Trouser, 2 × Dress", the most frequent first, of more than four only three. */
function countClasses(labels) {
  const counts = new Map();
  labels.forEach(label => counts.set(label, (counts.get(label) || 0) + 1));
  const sorted = [...counts].sort((a, b) => b[1] - a[1]);
  const named = sorted.slice(0, sorted.length > 4 ? 3 : 4);
  const text = named.map(([label, count]) => `${count} × ${data.classes[label]}`).join(", ");
  const others = sorted.length - named.length;
  return others ? `${text} and ${others} other classes` : text;
}

function channelName(layer, channel) {
  if (layer.kind === "classifier") return data.classes[channel];
  return `${layer.kind === "fully-connected layer" ? "unit" : "channel"} ${channel}`;
}

function press(buttons, pressed) {
  for (const button of buttons) button.setAttribute("aria-pressed", button === pressed);
}

/* Scroll the diagram sideways, and never the page, until the layer is in sight. */
function scrollIntoBox(button) {
  const outer = box.getBoundingClientRect(), inner = button.getBoundingClientRect();
  if (inner.left < outer.left || inner.right > outer.right) {
    box.scrollLeft += inner.left + inner.width / 2 - outer.left - outer.width / 2;
  }
}

function announce(text) {
  at("status").textContent = text;
}

function showLayer(index) {
  const layer = data.layers[index];
  chosen.layer = index;
  const buttons = document.querySelectorAll(".diagram button");
  press(buttons, buttons[index]);
  scrollIntoBox(buttons[index]);
  at("layer-title").textContent = `${layer.name}: ${layer.channels.length} of ${layer.total} ` +
    ({ "classifier": "classes", "fully-connected layer": "units" }[layer.kind] || "channels");
  const article = layer.description.startsWith("I") ? "An" : "A";
  const field = layer.whole ? "Its activations may depend on the whole image."
    : `Each activation depends on ${layer.field}×${layer.field} pixels of the image.`;
  const kernels = layer.colored && layer.channels.some(one => one.kernel !== null);
  const drawn = kernels ? "kernel" : layer.method === "gradient"
    ? "gradient of its strongest activation" : "projection of its strongest activation";
  const what = { "classifier": "class", "fully-connected layer": "unit" }[layer.kind] || "channel";
  at("layer-text").textContent =
    `${article} ${layer.description}. ${field} Of each ${what} the button shows the ${drawn}.`;
  at("channels").replaceChildren(...layer.channels.map((one, row) => {
    const dead = one.values[0] <= 0 && layer.kind !== "classifier";
    const name = channelName(layer, one.channel);
    const shown = kernels ? one.kernel : one.projections[0];
    return element("button", {
      type: "button", className: dead ? "dead" : "", onclick: () => showChannel(row),
      ariaLabel: dead ? `${name}, never active` : name,
    }, picture(shown, ""), layer.kind === "classifier" ? name : one.channel);
  }));
  const peaks = layer.channels.map(one => one.values[0]);
  showChannel(peaks.indexOf(Math.max(...peaks)));
}

function showChannel(row) {
  const layer = data.layers[chosen.layer], one = layer.channels[row];
  chosen.channel = row;
  const buttons = at("channels").children;
  press(buttons, buttons[row]);
  const name = channelName(layer, one.channel), { values, labels } = one;
  const part = layer.columns > 1 ? `, column ${one.column}`
    : one.branch ? `, branch ${one.branch}` : "";
  at("channel-title").textContent = `${layer.name}, ${name}${part}`;
  const dead = values[0] <= 0 && layer.kind !== "classifier";
  const range = `${values.length} strongest activations, from ${format(values[0])} to ` +
    format(values[values.length - 1]);
  at("channel-text").textContent = dead
    ? `Never active on the ${data.split} split.`
    : `The ${range}, are on images of ${countClasses(labels)}.`;
  const describe = rank => `activation ${format(values[rank])}, image ${one.images[rank]}: ` +
    data.classes[labels[rank]];
  const showNine = (grid, pictures, what) => {
    grid.parentElement.hidden = dead;
    grid.replaceChildren(...(dead ? [] : pictures).map((index, rank) => {
      const made = picture(index, `${what} ${rank + 1} of ${pictures.length}, ${describe(rank)}`);
      made.title = describe(rank);
      return made;
    }));
  };
  showNine(at("patches"), one.patches, "Patch");
  showNine(at("projections"), one.projections, layer.method === "gradient" ? "Gradient" : "Projection");
  at("kernel").hidden = one.kernel === null;
  if (one.kernel !== null) {
    const alt = layer.colored ? `Kernel of ${layer.name}, ${name}`
      : `Kernel of ${layer.name}, ${name}: a tile for each input channel`;
    at("kernel").firstElementChild.replaceChildren(picture(one.kernel, alt, 100));
    at("kernel").lastElementChild.textContent = layer.colored
      ? "kernel" : "kernel, a tile for each input channel";
  }
  announce(`${layer.name}, ${name}${part}. ${at("channel-text").textContent}`);
}

function showImage(row) {
  const one = data.images[row], name = data.classes[one.label];
  chosen.image = row;
  const buttons = at("thumbnails").children;
  press(buttons, buttons[row]);
  const [best] = one.top5, correct = best[0] === one.label;
  const verdict = correct ? "classified correctly" : `misclassified as ${data.classes[best[0]]}`;
  at("image-title").textContent = `Image ${one.index} of the ${data.split} split: ${name}, ${verdict}`;
  at("picture").replaceChildren(picture(one.picture, `Image ${one.index}: ${name}`));
  const inTop5 = one.top5.some(([label]) => label === one.label);
  const listed = inTop5 ? one.top5 : [...one.top5, [one.label, one.probability]];
  at("top5").replaceChildren(...listed.map(([label, share]) => {
    const bar = element("span", { className: "bar" });
    bar.style.width = `${100 * share}%`;
    return element("li", { className: label === one.label ? "correct" : "" }, bar,
      element("span", { className: "name" },
        data.classes[label] + (label === one.label ? " ✓" : "")),
      element("span", { className: "probability" }, percent(share)));
  }));
  showOcclusion(one.occlusion, name);
  at("neighbors").replaceChildren(...one.neighbors.map(near => {
    const label = data.classes[near.label];
    const text = element("span", { className: near.label === one.label ? "" : "wrong" }, label);
    return element("li", {}, picture(near.picture, `Training image ${near.index}`), text,
      element("br"), element("span", { className: "hidden" }, "distance "), format(near.distance));
  }));
  at("activations").replaceChildren(...one.activations.map((layer, index) => {
    const { name, total, kind, units, channels } = data.layers[index];
    const strongest = channelName(data.layers[index], layer.strongest);
    const caption = `${name}: ${Math.round(100 * layer.active)} % above 0; strongest is ` +
      `${strongest} with ${format(layer.value)}`;
    const shown = units ? `all ${total}` : `${channels.length} of ${total}`;
    const made = picture(layer.picture, `Activations of ${shown} ${
      kind === "classifier" ? "classes" : units ? "units" : "channels"} of ${caption}`, 1e9);
    const figure = element("figure", {}, made, element("figcaption", {}, caption));
    const found = channels.findIndex(channel => channel.channel === layer.strongest);
    if (found >= 0) {
      figure.lastElementChild.append(" ", element("button", {
        type: "button", className: "link", textContent: `show ${strongest}`,
        onclick: () => { showLayer(index); showChannel(found); at("layer-title").focus(); },
      }));
    }
    return figure;
  }));
  announce(at("image-title").textContent);
}

function showOcclusion(found, name) {
  const text = `The probability of ${name} is between ${percent(found.lowest)} and ` +
    `${percent(found.highest)} while a gray square of ${found.side}×${found.side} pixels covers ` +
    `part of the image; it is lowest with the square's center in row ${found.row}, column ` +
    `${found.column}.`;
  const made = picture(found.picture, `Occlusion map. ${text}`, 1e9);
  Object.assign(made.style, {
    left: `${100 * found.start}%`, top: `${100 * found.start}%`,
    width: `${100 * found.size}%`, height: `${100 * found.size}%`,
  });
  at("occlusion").replaceChildren(made);
  at("occlusion-text").textContent = text;
}

document.querySelectorAll(".diagram button").forEach((button, index) => {
  button.onclick = () => showLayer(index);
  // A browser may leave a focused button half hidden; a click is not to move what is clicked.
  button.onfocus = () => {
    if (button.matches(":focus-visible")) scrollIntoBox(button);
  };
});
const hintAtScrolling = () => { at("scrolls").hidden = box.scrollWidth <= box.clientWidth; };
addEventListener("resize", hintAtScrolling);
hintAtScrolling();
at("thumbnails").append(...data.images.map((one, row) => {
  const name = data.classes[one.label], wrong = one.top5[0][0] !== one.label;
  return element("button", {
    type: "button", onclick: () => showImage(row),
    ariaLabel: `Image ${one.index}: ${name}${wrong ? ", misclassified" : ""}`,
  }, picture(one.picture, ""), element("span", { className: wrong ? "wrong" : "" }, name));
}));
const lastConvolution = data.layers.findLastIndex(layer => !layer.units);
showLayer(Math.max(0, lastConvolution));
showImage(0);
announce("");
