const find = (selector) => element.querySelector(selector);
let shown = null;

// The class ids of a result, and how sure it is of each,, from the bytes of its picture.
async function unpack(result, width, height) {
  const picture = new Image();
  picture.src = result.map;
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  context.drawImage(picture, 0, 0);
  const bytes = context.getImageData(0, 0, width, height).data;
  const ids = new Uint16Array(width * height);
  const sure = new Uint8Array(width * height);
  for (let i = 0; i < ids.length; i++) {
    ids[i] = bytes[4 * i] + 256 * bytes[4 * i + 1];
    sure[i] = bytes[4 * i + 2];
  }
  const classes = new Map(result.classes.map((entry) => [entry.id, entry]));
  return { ...result, ids, sure, byId: classes, chosen: null };
}

// Viridis, from dark blue, not sure, to yellow, sure.
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
function heat(value) {
  const place = (value / 255) * (SCALE.length - 1);
  const low = Math.min(Math.floor(place), SCALE.length - 2);
  return SCALE[low].map((channel, k) => channel + (place - low) * (SCALE[low + 1][k] - channel));
}

function paint(canvas, result, width, height, confident) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  const heats = Array.from({ length: 256 }, (_, value) => heat(value));
  for (let i = 0; i < result.ids.length; i++) {
    const id = result.ids[i];
    const color = confident ? heats[result.sure[i]] : result.byId.get(id)?.color ?? [0, 0, 0];
    picture.data.set(color, 4 * i);
    picture.data[4 * i + 3] = result.chosen === null || result.chosen === id ? 255 : 40;
  }
  context.putImageData(picture, 0, 0);
}

function layers() {
  return [find(".first"), find(".second")];
}

function redraw() {
  shown.results.forEach((result, k) => {
    paint(layers()[k], result, shown.width, shown.height, find(".sure").checked);
  });
  fade();
  part(shown.boundary);
}

function fade() {
  layers().forEach((canvas) => { canvas.style.opacity = find(".opacity").value / 100; });
}

// The first model's result is left of the boundary, a share of the width, and the second one's right of it.
function part(boundary) {
  const isPair = shown.results.length === 2;
  shown.boundary = Math.min(1, Math.max(0, boundary));
  const percent = 100 * shown.boundary;
  const [first, second] = layers();
  second.style.display = isPair ? "" : "none";
  find(".divider").style.display = isPair ? "" : "none";
  first.style.clipPath = isPair ? `inset(0 ${100 - percent}% 0 0)` : "";
  second.style.clipPath = `inset(0 0 0 ${percent}%)`;
  find(".divider").style.left = `${percent}%`;
  find(".divider").setAttribute("aria-valuenow", Math.round(percent));
}

function legend(result) {
  const section = document.createElement("section");
  const title = document.createElement("h4");
  title.textContent = `${result.model}: mean confidence ${(100 * result.confidence).toFixed(1)} %`;
  const list = document.createElement("ul");
  for (const entry of result.classes) {
    const button = document.createElement("button");
    const swatch = document.createElement("i");
    swatch.style.background = `rgb(${entry.color.join(" ")})`;
    const text = document.createElement("span");
    text.textContent = `${entry.name} ${(100 * entry.share).toFixed(1)} %`;
    button.title = `${Math.round(entry.share * result.pixels).toLocaleString("en")} pixels`;
    button.setAttribute("aria-pressed", "false");
    button.append(swatch, text);
    button.addEventListener("click", () => {
      result.chosen = result.chosen === entry.id ? null : entry.id;
      for (const other of list.querySelectorAll("button")) {
        other.setAttribute("aria-pressed", String(other === button && result.chosen !== null));
      }
      redraw();
    });
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  }
  section.append(title, list);
  return section;
}

function tell(event) {
  const box = find(".photo").getBoundingClientRect();
  const across = (event.clientX - box.left) / box.width;
  const down = (event.clientY - box.top) / box.height;
  const tip = find(".tip");
  if (!shown || across < 0 || across >= 1 || down < 0 || down >= 1) {
    tip.style.display = "none";
    return;
  }
  const result = shown.results[shown.results.length === 2 && across > shown.boundary ? 1 : 0];
  const pixel = Math.floor(down * shown.height) * shown.width + Math.floor(across * shown.width);
  const name = result.byId.get(result.ids[pixel])?.name ?? "no class";
  tip.textContent = `${name} · ${Math.round(result.sure[pixel] / 2.55)} % sure`;
  tip.style.display = "block";
  tip.style.left = across < 0.5 ? `${100 * across}%` : "auto";
  tip.style.right = across < 0.5 ? "auto" : `${100 * (1 - across)}%`;
  tip.style.top = `calc(${100 * down}% + ${down < 0.8 ? 18 : -44}px)`;
}

async function show() {
  const content = props.value ? JSON.parse(props.value) : null;
  find(".viewer").hidden = content === null;
  find(".empty").hidden = content !== null;
  shown = null;
  if (content === null) return;
  find(".photo").src = content.photo;
  const { width, height } = content;
  const results = await Promise.all(content.results.map((result) => unpack(result, width, height)));
  shown = { width, height, results, boundary: 0.5 };
  find(".legends").replaceChildren(...results.map(legend));
  redraw();
  element.dataset.models = results.map((result) => result.model).join(" ");
}

find(".opacity").addEventListener("input", () => shown && fade());
find(".sure").addEventListener("change", () => shown && redraw());
find(".stage").addEventListener("pointermove", tell);
find(".stage").addEventListener("pointerdown", tell);
find(".stage").addEventListener("pointerleave", () => { find(".tip").style.display = "none"; });
find(".divider").addEventListener("pointerdown", (event) => {
  event.preventDefault();
  find(".divider").setPointerCapture(event.pointerId);
});
find(".divider").addEventListener("pointermove", (event) => {
  if (!find(".divider").hasPointerCapture(event.pointerId)) return;
  const box = find(".photo").getBoundingClientRect();
  part((event.clientX - box.left) / box.width);
});
find(".divider").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
  if (step) part(shown.boundary + step);
});
watch("value", show);
show();
