"use strict";
// The sections in which users and items are looked up.
(() => {
  // This many matches of a search are listed, this many users who get an item, and this many rows of
  // a list before the reader asks for all.
  const MOST_MATCHES = 24;
  const MOST_USERS = 50;
  const MOST_ROWS = 8;
  // The rows of a history are lower than those of the list beside it.
  const MOST_HISTORY_ROWS = 12;
  const element = (id) => document.getElementById(id);
  const create = (name, text, kind) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    return node;
  };
  // The fields of People in people.py.
  const data = JSON.parse(element("people-data").textContent);
  const formatNumber = (value) => value.toLocaleString("en");
  const formatDay = (days) => {
    const date = new Date(days * 86400000);
    return Number.isNaN(date.getTime()) ? "" : date.toISOString().slice(0, 10);
  };
  // A name that is written from right to left would reorder the words around it.
  const isolate = (text) => create("bdi", text);
  const ID = 0, TITLE = 1, USERS = 2, LISTS = 3, NEAR = 4, IMAGE = 5, LINK = 6;
  const titleOf = (place) => data.items[place][TITLE] ?? data.items[place][ID];
  const safeAddress = (address) => (/^https?:\/\//.test(address ?? "") ? address : null);

  // A button that shows the item in its own section.
  function createItemButton(place) {
    const button = create("button", undefined, "link");
    button.type = "button";
    button.append(isolate(titleOf(place)));
    if (data.items[place][TITLE] !== null) button.title = `item ${data.items[place][ID]}`;
    button.addEventListener("click", () => { itemFinder.show(place); scrollToArticle("item"); });
    return button;
  }

  function createPicture(place) {
    const address = safeAddress(data.items[place][IMAGE]);
    if (address === null || !element("images")?.checked) return [];
    const image = create("img");
    Object.assign(image, { src: address, alt: "", loading: "lazy", referrerPolicy: "no-referrer" });
    return [image];
  }

  function createPageLink(place) {
    const address = safeAddress(data.items[place][LINK]);
    if (address === null) return [];
    const link = create("a", "page");
    Object.assign(link, { href: address, target: "_blank", rel: "noopener noreferrer" });
    link.setAttribute("aria-label", `page of ${titleOf(place)}`);
    return [" ", link];
  }

  function createEntry(mark, place, why) {
    const row = create("li");
    const body = create("div");
    body.append(createItemButton(place), ...createPageLink(place));
    if (why) {
      const line = create("span", undefined, "why");
      line.append(...why);
      body.append(line);
    }
    row.append(...(mark ? [create("span", mark, "mark")] : []), ...createPicture(place), body);
    return row;
  }

  // Puts the rows into the list with this id, and below it a button for those beyond the first ones.
  // A list that the reader unfolded stays so for the next user or item.
  function fillList(id, rows, empty) {
    const list = element(id);
    list.replaceChildren(...(rows.length || !empty ? rows : [create("li", empty)]));
    let button = element(`${id}-all`);
    if (button === null) {
      button = create("button", undefined, "all");
      Object.assign(button, { id: `${id}-all`, type: "button" });
      button.setAttribute("aria-controls", id);
      button.setAttribute("aria-expanded", "false");
      button.addEventListener("click", () => {
        button.setAttribute("aria-expanded", String(button.ariaExpanded === "false"));
        showRows(list, button);
      });
      list.after(button);
    }
    showRows(list, button);
  }
  function showRows(list, button) {
    const count = list.children.length;
    const most = list.id === "history" ? MOST_HISTORY_ROWS : MOST_ROWS;
    const areAll = button.ariaExpanded === "true";
    [...list.children].forEach((row, number) => (row.hidden = !areAll && number >= most));
    button.hidden = count <= most;
    button.textContent = areAll ? `Show the first ${most}` : `Show all ${count}`;
  }

  // Spreadsheets run cells that start like a formula. Some end a cell at another separator, so what
  // follows one is escaped too.
  const escapeCell = (value) => {
    const text = String(value ?? "").replace(/^(?=[=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n])|(?<=[;|\t\r\n]"*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])/g, "'");
    return /[",;\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  function download(name, rows) {
    const text = rows.map((row) => row.map(escapeCell).join(",") + "\r\n").join("");
    const link = create("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" }));
    link.download = `${name.replace(/[^\w.-]+/g, "_").slice(0, 80)}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const scrollToArticle = (id) => element(id).scrollIntoView({ block: "start" });
  const rememberInAddress = (what, id) => {
    try { history.replaceState(null, "", `#${what}=${encodeURIComponent(id)}`); } catch { /* not everywhere */ }
  };

  // A search box with its matches, and an article that shows the chosen one. A place is an index in
  // the data. `texts` returns the id at a place and, if there is one, the title. `weight` decides
  // which of equally good matches stands first.
  function createFinder(what, article, count, texts, draw, describeMissing, weight = () => 0) {
    let chosenPlace = -1;
    let summary = "";
    // The places in the order of the last search, in which the buttons go on.
    let order = [];
    const part = (name) => element(`${what}-${name}`);
    const lowerTexts = Array.from({ length: count }, (_, place) => texts(place).map((text) => text.toLowerCase()));

    function show(place, byHand = true) {
      chosenPlace = place;
      draw(place);
      const name = texts(place).at(-1);
      part("found").replaceChildren(`${summary}; ${what} `, isolate(name), ", shown below");
      if (byHand) rememberInAddress(what, texts(place)[0]);
      for (const button of part("matches").querySelectorAll("button")) {
        button.setAttribute("aria-current", String(Number(button.value) === place));
      }
    }

    function search(byHand = true) {
      const query = part("text").value.trim().toLowerCase();
      const places = [];
      lowerTexts.forEach((candidates, place) => {
        if (candidates.some((text) => text.includes(query))) {
          const rank = candidates.includes(query) ? 0 : candidates.some((text) => text.startsWith(query)) ? 1 : 2;
          places.push([rank, place]);
        }
      });
      places.sort(([firstRank, first], [secondRank, second]) =>
        firstRank - secondRank || weight(second) - weight(first) || first - second);
      if (places.length) order = places.map(([, place]) => place);
      if (chosenPlace < 0) chosenPlace = order[0];
      part("matches").replaceChildren(...places.slice(0, MOST_MATCHES).map(([, place]) => {
        const button = create("button");
        Object.assign(button, { type: "button", value: String(place) });
        button.append(isolate(texts(place).at(-1)));
        button.addEventListener("click", () => show(place));
        const item = create("li");
        item.append(button);
        return item;
      }));
      const listed = places.length > MOST_MATCHES ? ` (${MOST_MATCHES} listed)` : "";
      summary = places.length === 1 ? `1 ${what} found`
        : `${formatNumber(places.length)} ${what}s found, ${query ? "best match first" : part("found").dataset.order}${listed}`;
      element(article).hidden = !places.length;
      if (places.length) show(query ? places[0][1] : chosenPlace, byHand);
      else part("found").replaceChildren(...describeMissing(isolate(query)));
    }

    const turnBy = (step) => () =>
      show(order[(order.indexOf(chosenPlace) + step + order.length) % order.length]);
    part("text").addEventListener("input", () => search());
    element(`find-${what}`).addEventListener("submit", (event) => event.preventDefault());
    part("previous").addEventListener("click", turnBy(-1));
    part("next").addEventListener("click", turnBy(1));
    part("random").addEventListener("click", () => {
      part("text").value = "";
      chosenPlace = Math.floor(Math.random() * count);
      search();
    });
    search(false);
    return {
      show,
      chosenPlace: () => chosenPlace,
      redraw: () => draw(chosenPlace),
      // Show the user or item with this id, which comes from the page's address.
      open(id) {
        const place = Array.from({ length: count }, (_, candidate) => texts(candidate)[0]).indexOf(id);
        part("text").value = "";
        if (place >= 0) { chosenPlace = place; search(false); scrollToArticle(article); }
        else part("found").replaceChildren(...describeMissing(isolate(id)));
      },
    };
  }

  function showPerson(place) {
    const [user, interactions, past, list] = data.people[place];
    element("person-name").replaceChildren("User ", isolate(user));
    element("person-known").textContent = interactions === 1 ? "1 interaction" : `${formatNumber(interactions)} interactions`;
    const pastRows = [];
    for (let i = 0; i < past.length; i += 2) pastRows.push(createEntry(formatDay(past[i + 1]), past[i]));
    fillList("history", pastRows, "No history yet: the list shows what most people like.");
    const rows = [];
    for (let i = 0; i < list.length; i += 3) {
      const because = list[i + 1];
      rows.push(createEntry(String(i / 3 + 1), list[i],
        because >= 0 ? describeOverlap(list[i + 2], because, "this")
          : because === -2 ? ["put on the list by a rule"]
          : because === -3 ? ["popular, not the model's choice"]
          : interactions ? ["no item in their history shares an audience with this"] : null));
    }
    fillList("recommended", rows);
  }
  // For example "361 of 613 people who liked X also liked this".
  const describeOverlap = (both, liked, other) =>
    [`${formatNumber(both)} of ${formatNumber(data.items[liked][USERS])} people who liked `, createItemButton(liked), ` also liked ${other}`];

  function showItem(place) {
    const [id, title, users, lists, near] = data.items[place];
    element("item-name").replaceChildren(...createPicture(place), isolate(titleOf(place)), ...createPageLink(place));
    element("item-known").replaceChildren(
      ...(title === null ? [] : ["item ", isolate(id), "; "]),
      `in ${formatNumber(lists)} lists; ${formatNumber(users)} of the people counted have it`
    );
    fillList("gets", createUserRows(getListedUsers().get(place) ?? []), "Nobody among the users above.");
    const rows = [];
    for (let i = 0; i < near.length; i += 2) {
      rows.push(createEntry("", near[i],
        [`${formatNumber(near[i + 1])} of ${formatNumber(users)} people who liked this also liked it`]));
    }
    fillList("goes", rows, "Nothing is counted for this item.");
    if (data.similar_items) showSimilarItems(data.similar_items[place]);
  }
  // A row for each rank, with the users whose list has the item there.
  function createUserRows(listedUsers) {
    const rows = [];
    let users = null;
    listedUsers.slice(0, MOST_USERS).forEach(([rank, user], number) => {
      if (rank !== listedUsers[number - 1]?.[0]) {
        const row = create("li");
        users = create("div", undefined, "users");
        row.append(create("span", `rank ${rank}`, "mark"), users);
        rows.push(row);
      }
      const button = create("button", undefined, "link");
      button.type = "button";
      button.append(isolate(data.people[user][ID]));
      button.addEventListener("click", () => { userFinder.show(user); scrollToArticle("person"); });
      users.append(button);
    });
    const left = listedUsers.length - MOST_USERS;
    if (left > 0) rows.push(create("li", `${formatNumber(left)} more are in the CSV.`));
    return rows;
  }
  // The published list of similar items. An item of it that is not on this page is -1.
  function showSimilarItems(list) {
    const rows = (list ?? []).flatMap((similar, i) => (similar < 0 ? [] : [createEntry(String(i + 1), similar)]));
    const left = list === undefined ? "Its list is not on this page: batchrec show --item prints it."
      : !list.length ? "It has no list: too few people had it, or rules left out all."
      : rows.length < list.length ? "The page does not have the other items: batchrec show --item prints them." : "";
    if (left) rows.push(create("li", left));
    fillList("similar", rows);
  }
  // For each item the ranks and users of the lists that contain it, best first.
  let usersByItem = null;
  function getListedUsers() {
    if (usersByItem === null) {
      usersByItem = new Map();
      data.people.forEach(([, , , list], user) => {
        for (let i = 0; i < list.length; i += 3) {
          if (!usersByItem.has(list[i])) usersByItem.set(list[i], []);
          usersByItem.get(list[i]).push([i / 3 + 1, user]);
        }
      });
      for (const ranks of usersByItem.values()) ranks.sort(([firstRank], [secondRank]) => firstRank - secondRank);
    }
    return usersByItem;
  }

  let userFinder = null, itemFinder = null;
  if (data.people.length) {
    element("browser").hidden = element("item-browser").hidden = false;
    const sampled = "sampled" in element("browser").dataset;
    userFinder = createFinder("user", "person", data.people.length, (place) => [data.people[place][ID]], showPerson,
      (query) => [sampled ? "No user id in this sample contains " : "No user id contains ", query,
        sampled ? "; batchrec show finds all users" : ""]);
    itemFinder = createFinder("item", "item", data.items.length,
      (place) => (data.items[place][TITLE] === null ? [data.items[place][ID]]
        : [data.items[place][ID], data.items[place][TITLE]]),
      showItem, (query) => ["No item here has ", query, " in its title or id"],
      (place) => data.items[place][LISTS]);
    element("user-csv").addEventListener("click", () => {
      const [user, , , list] = data.people[userFinder.chosenPlace()];
      const rows = [["user_id", "rank", "item_id", "title", "because_item_id", "people_who_like_both"]];
      for (let i = 0; i < list.length; i += 3) {
        const item = data.items[list[i]];
        const because = data.items[list[i + 1]];
        rows.push([user, i / 3 + 1, item[ID], item[TITLE], because?.[ID], because ? list[i + 2] : ""]);
      }
      download(`user-${user}`, rows);
    });
    element("item-csv").addEventListener("click", () => {
      const place = itemFinder.chosenPlace();
      const rows = (getListedUsers().get(place) ?? []).map(([rank, user]) =>
        [data.items[place][ID], data.items[place][TITLE], data.people[user][ID], rank]);
      download(`item-${data.items[place][ID]}`, [["item_id", "title", "user_id", "rank"], ...rows]);
    });
    element("images")?.addEventListener("change", () => { userFinder.redraw(); itemFinder.redraw(); });
    const openAddress = () => {
      const [, what, id] = /^#(user|item)=(.*)$/s.exec(location.hash) ?? [];
      if (what === undefined) return;
      try { (what === "user" ? userFinder : itemFinder).open(decodeURIComponent(id)); } catch { /* no such address */ }
    };
    addEventListener("hashchange", openAddress);
    openAddress();
  }
})();
