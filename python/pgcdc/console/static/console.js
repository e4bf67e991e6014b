// What pages do beyond what they say: numbers that follow, charts, keys. Without it all pages and forms work.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const plots = [...document.querySelectorAll(".plot")].map((element) => ({
    element,
    keys: element.dataset.series.split(" ").map(decodeURIComponent),
    names: element.dataset.names.split(" ").map(decodeURIComponent),
    unit: element.dataset.unit,
    chart: null,
  }));
  const keys = plots.flatMap((plot) => plot.keys);
  const MOST = 1800;
  let at = [];
  let values = keys.map(() => []);
  let source = null;

  // Words: the server has written the texts, these are for the axes alone.
  const size = (bytes) => {
    const units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let unit = 0;
    while (Math.abs(bytes) >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
    return `${+bytes.toPrecision(3)} ${units[unit]}`;
  };
  const span = (seconds) => {
    if (seconds >= 86400) return `${+(seconds / 86400).toPrecision(3)} d`;
    if (seconds >= 3600) return `${+(seconds / 3600).toPrecision(3)} h`;
    if (seconds >= 60) return `${+(seconds / 60).toPrecision(3)} min`;
    return `${+seconds.toPrecision(3)} s`;
  };
  const said = { bytes: size, seconds: span, count: (number) => (+number.toPrecision(4)).toLocaleString("en") };
  const steps = {
    bytes: [...Array(50).keys()].flatMap((power) => [2 ** power]),
    seconds: [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800],
    count: [1, 2, 5].flatMap((digit) => [...Array(12).keys()].map((power) => digit * 10 ** power)).sort((a, b) => a - b),
  };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const draw = () => {
    let first = 0;
    for (const plot of plots) {
      const data = [at, ...plot.keys.map((_, index) => values[first + index])];
      first += plot.keys.length;
      const width = plot.element.clientWidth;
      if (plot.chart === null) {
        const line = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1, size: 4 }, font: `11px ${getComputedStyle(document.body).fontFamily}` };
        const options = {
          width,
          height: 170,
          cursor: { y: false, points: { size: 6 } },
          legend: { show: plot.names.length > 1 },
          scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(high * 1.08, { bytes: 1024, seconds: 5, count: 5 }[plot.unit])] } },
          axes: [
            { ...line, space: 70, size: 30, values: (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toISOString().slice(11, tick % 60 ? 19 : 16)) },
            { ...line, size: 62, space: 28, incrs: steps[plot.unit], values: (_, ticks) => ticks.map(said[plot.unit]) },
          ],
          series: [
            { label: "UTC", value: (_, when) => (when == null ? "" : new Date(when * 1000).toISOString().slice(11, 19)) },
            ...plot.names.map((name, index) => ({
              label: name,
              stroke: colour(`--draw-${(index % 6) + 1}`),
              width: 1.75,
              fill: index === 0 && plot.names.length < 3 ? `${colour(`--draw-${index + 1}`)}1c` : undefined,
              points: { show: false },
              value: (_, number) => (number == null ? "–" : said[plot.unit](number)),
            })),
          ],
        };
        plot.chart = new uPlot(options, data, plot.element);
      } else {
        if (plot.chart.width !== width) plot.chart.setSize({ width, height: 170 });
        plot.chart.setData(data);
      }
      // Where nothing is pointed at, the numbers beside the names are the last ones.
      if (plot.names.length > 1 && plot.chart.cursor.idx == null) plot.chart.setLegend({ idx: at.length - 1 });
    }
  };
  const redraw = () => {
    for (const plot of plots) {
      if (plot.chart !== null) { plot.chart.destroy(); plot.chart = null; }
    }
    if (at.length) draw();
  };

  // Troubles are built from text: nothing that was sent becomes markup.
  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  let shown = null;
  const showTroubles = (troubles, well) => {
    const worst = troubles.length ? troubles[0].grave : "well";
    byId("dot").className = `dot ${worst}`;
    if (byId("icon").getAttribute("href") !== `/static/${worst}.svg`) byId("icon").href = `/static/${worst}.svg`;
    const list = byId("troubles");
    if (list === null) return;
    const calm = worst === "well" || worst === "notice";
    const headline = byId("headline");
    const put = (place, text) => { if (place.textContent !== text) place.textContent = text; };
    put(headline, calm ? "Nothing needs you." : troubles[0].what);
    put(byId("lead"), calm ? well : troubles[0].then);
    byId("needs").className = `headline ${worst}`;
    if (calm) headline.removeAttribute("href"); else headline.setAttribute("href", troubles[0].link);
    if (!calm) troubles = troubles.slice(1);
    const now = JSON.stringify(troubles);
    if (now === shown || (list.contains(document.activeElement) && shown !== null && list.children.length === troubles.length)) return;
    shown = now;
    list.replaceChildren(...troubles.map((trouble) => {
      const item = element("li", undefined, trouble.grave);
      const what = element("p", undefined, "what");
      const link = element("a", trouble.what);
      link.setAttribute("href", trouble.link);
      what.append(element("span", trouble.grave, "grave"), " ", link);
      item.append(what);
      if (trouble.then) item.append(element("p", trouble.then, "then"));
      return item;
    }));
  };

  const connection = byId("connection");
  const follow = () => {
    if (source !== null || document.hidden || connection === null) return;
    source = new EventSource(`/live?${new URLSearchParams(keys.map((key) => ["series", key]))}`);
    source.addEventListener("history", (event) => {
      const history = JSON.parse(event.data);
      at = history.at;
      values = history.values;
    });
    source.addEventListener("sample", (event) => {
      const sample = JSON.parse(event.data);
      connection.textContent = `${new Date(sample.at * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
      for (const place of document.querySelectorAll("[data-live]")) {
        const text = sample.texts[place.dataset.live];
        if (text === undefined) continue;
        if (place.textContent !== text) place.textContent = text;
        if (place.dataset.hide !== undefined) place.hidden = text === place.dataset.hide;
      }
      for (const bar of document.querySelectorAll("[data-bar]")) {
        if (bar.dataset.bar in sample.bars) bar.value = sample.bars[bar.dataset.bar];
      }
      showTroubles(sample.troubles, sample.well);
      if (at[at.length - 1] !== sample.at) {
        at.push(sample.at);
        values.forEach((list, index) => list.push(sample.values[index]));
        if (at.length > MOST) { at.shift(); values.forEach((list) => list.shift()); }
      }
      if (plots.length) draw();
    });
    source.addEventListener("error", () => {
      byId("dot").className = "dot away";
      connection.textContent = "the console does not answer";
    });
  };
  const rest = () => {
    if (source !== null) { source.close(); source = null; }
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : follow()));
  window.addEventListener("pagehide", rest);
  window.addEventListener("resize", () => { if (at.length) draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  follow();

  // Boxes: all at once.
  const all = byId("all");
  if (all !== null) {
    all.closest("label").hidden = false;
    all.addEventListener("change", () => document.querySelectorAll('input[name="id"]').forEach((box) => { box.checked = all.checked; }));
  }

  // Keys: none of them while something is typed, and none with Ctrl, Alt or Meta.
  const help = byId("help");
  if (help === null) return;
  byId("keys").hidden = false;
  byId("keys").addEventListener("click", () => help.showModal());
  let waiting = 0;
  const rows = () => [...document.querySelectorAll("tbody th a, .timeline a, .troubles a")].filter((link) => link.offsetParent !== null);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || help.open) return;
    if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
    if (Date.now() - waiting < 1500) {
      waiting = 0;
      const link = document.querySelector(`nav [data-key="${CSS.escape(event.key)}"]`);
      if (link !== null) { event.preventDefault(); link.click(); }
    } else if (event.key === "g") {
      waiting = Date.now();
    } else if (event.key === "?") {
      event.preventDefault();
      help.showModal();
    } else if (event.key === "/") {
      const field = document.querySelector("main input:not([type=checkbox]):not([type=hidden]), main select");
      if (field !== null) { event.preventDefault(); field.focus(); }
    } else if (event.key === "j" || event.key === "k") {
      const links = rows();
      const here = links.indexOf(document.activeElement);
      const next = event.key === "j" ? Math.min(here + 1, links.length - 1) : Math.max(here - 1, 0);
      if (links.length) { event.preventDefault(); links[next].focus(); }
    }
  });
})();
