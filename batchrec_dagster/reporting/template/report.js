
"use strict";
(() => {
  const MOST_MATCHES = 24;
  const element = (id) => document.getElementById(id);
  const create = (name, text, kind) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    return node;
  };
  // Isolate the title: one written from right to left would reorder the words around it.
  const named = (number) => {
    const [id, title] = data.items[number];
    const node = create("bdi", title === null ? id : title);
    if (title !== null) node.title = `item ${id}`;
    return node;
  };
  const day = (days) => {
    const date = new Date(days * 86400000);
    return Number.isNaN(date.getTime()) ? "" : date.toISOString().slice(0, 10);
  };
  const number = (value) => value.toLocaleString("en");

  const data = JSON.parse(element("people-data").textContent);
  let chosen = 0;
  let found = "";

  function entry(mark, item) {
    const row = create("li");
    const body = create("div");
    body.append(named(item));
    row.append(create("span", mark, "mark"), body);
    return [row, body];
  }

  function history(flat) {
    const list = element("history");
    list.replaceChildren();
    for (let i = 0; i < flat.length; i += 2) list.append(entry(day(flat[i + 1]), flat[i])[0]);
    if (!flat.length) list.append(create("li", "No history yet: the list shows what most people like."));
  }

  function recommended(flat, known) {
    const list = element("recommended");
    list.replaceChildren();
    for (let i = 0; i < flat.length; i += 3) {
      const [row, body] = entry(String(i / 3 + 1), flat[i]);
      const because = flat[i + 1];
      const why = create("span", undefined, "why");
      if (because >= 0) {
        const of = data.items[because][2];
        why.append(
          `${number(flat[i + 2])} of ${number(of)} people who liked `, named(because),
          " also liked this"
        );
      } else if (known) {
        why.append("no item in their history shares an audience with this");
      }
      if (why.hasChildNodes()) body.append(why);
      list.append(row);
    }
  }

  function show(place) {
    chosen = place;
    const [user, known, had, list] = data.people[place];
    element("person-name").replaceChildren("User ", create("bdi", user));
    element("found").replaceChildren(`${found}; user `, create("bdi", user), ", shown below");
    element("person-known").textContent = known === 1 ? "1 interaction" : `${number(known)} interactions`;
    history(had);
    recommended(list, known > 0);
    for (const button of element("matches").querySelectorAll("button")) {
      button.setAttribute("aria-current", String(Number(button.value) === place));
    }
  }

  function search() {
    const wanted = element("find").value.trim().toLowerCase();
    const places = [];
    data.people.forEach(([user], place) => {
      const id = user.toLowerCase();
      if (id.includes(wanted)) places.push([id === wanted ? 0 : id.startsWith(wanted) ? 1 : 2, place]);
    });
    places.sort((one, other) => one[0] - other[0] || one[1] - other[1]);
    const matches = element("matches");
    matches.replaceChildren();
    for (const [, place] of places.slice(0, MOST_MATCHES)) {
      const button = create("button");
      button.type = "button";
      button.value = String(place);
      button.append(create("bdi", data.people[place][0]));
      button.addEventListener("click", () => show(place));
      const item = create("li");
      item.append(button);
      matches.append(item);
    }
    const more = places.length > MOST_MATCHES ? `, first ${MOST_MATCHES} listed` : "";
    found = places.length === 1 ? "1 user found" : `${number(places.length)} users found${more}`;
    element("person").hidden = !places.length;
    if (places.length) show(wanted ? places[0][1] : chosen);
    else {
      const sampled = "sampled" in element("browser").dataset;
      element("found").replaceChildren(
        sampled ? "No user id in this sample contains " : "No user id contains ", create("bdi", wanted),
        sampled ? "; batchrec show finds all users" : ""
      );
    }
  }

  if (data.people.length) {
    element("browser").hidden = false;
    element("find").addEventListener("input", search);
    element("search").addEventListener("submit", (event) => event.preventDefault());
    element("another").addEventListener("click", () => {
      element("find").value = "";
      chosen = Math.floor(Math.random() * data.people.length);
      search();
    });
    search();
  }

  const theme = element("theme");
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const update = () => theme.setAttribute("aria-pressed", String(dark));
  theme.hidden = false;
  update();
  theme.addEventListener("click", () => {
    dark = !dark;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    update();
  });

  // Print the tables too.
  let collapsed = [];
  addEventListener("beforeprint", () => {
    collapsed = [...document.querySelectorAll("details:not([open])")];
    collapsed.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => collapsed.forEach((details) => (details.open = false)));
})();
